"""Which code a stage depends on, read from what the source imports.

A stage depends on every module of rlvr that it reaches by an import, by a target such as "rlvr.verifiers.number:verify"
or by a file next to it that it names, such as "harness.py". Imports for type checkers change nothing and do not count.
`rlvr deps` writes the list into dvc.yaml; a hash of it says whether kept work was made by the code that runs now.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import rlvr

TARGET = re.compile(r"rlvr(\.\w+)+(:\w+)?")  # a module, or a function in it
USER = Path("user")
COPY = "RLVR_USER_COPY"  # names the folder with the copy; verifiers/workers/own.py reads it
# Reached by a stage, but unable to change its weights, answers or scores: an edit re-runs nothing. `config` only reads
# and checks values; `runtime` watches and measures.
WITHOUT_EFFECT = ("rlvr.config", "rlvr.runtime")


def module_file(name: str, source: Path) -> Path | None:
    """The file of module `name`, or None when it is not a module of `source`."""
    path = source / Path(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def imported(file: Path, *, top_level_only: bool = False, with_types: bool = False) -> set[str]:
    """Names of everything that `file` imports; `with_types`: under `if TYPE_CHECKING`, too."""
    names: set[str] = set()
    for node in _nodes(_parsed(file), top_level_only=top_level_only, with_types=with_types):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def reached(module: str, source: Path) -> frozenset[Path]:
    """The files of `module` and of all that it reaches, those in WITHOUT_EFFECT left out and not gone into."""
    files: set[Path] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        file = module_file(name, source)
        if file is None or file in files or name == "rlvr" or _is_without_effect(name):
            continue
        files.add(file)
        todo += [other for other in imported(file) | _targets(file) if other.startswith("rlvr.")]
        todo += [name.rpartition(".")[0]] if "." in name else []
        files |= _named_neighbours(file)
    return frozenset(file for file in files if not _is_empty(file))


def code_dependencies(stage: str, source: Path) -> list[str]:
    """The code that `stage` depends on, as dvc.yaml lists it: a folder where all of it is reached, else its files."""
    files = reached(f"rlvr.stages.{stage}", source)
    folders = {file.parent for file in files if file.parent != source / "rlvr"}
    whole = {folder for folder in folders if all(file in files or _is_empty(file) for file in folder.rglob("*.py"))}
    outermost = {folder for folder in whole if not whole & set(folder.parents)}
    loose = {file for file in files if not outermost & set(file.parents)}
    return sorted(str(path) for path in outermost | loose)


def code_hash(stage: str) -> str:
    """A hash of the code that `stage` depends on, in the source that runs: another one gives other results."""
    source = Path(rlvr.__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(reached(f"rlvr.stages.{stage}", source)):
        digest.update(f"{file.relative_to(source).as_posix()}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def files_of_the_user() -> list[Path]:
    """The files under user/: other code gives other rewards, and a new run."""
    return [path for path in sorted(USER.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


@contextmanager
def copy_of_user() -> Iterator[None]:
    """A block in which workers read the user's functions as they are now, whatever is edited meanwhile."""
    with tempfile.TemporaryDirectory(prefix="rlvr-user-") as folder:
        for file in files_of_the_user():
            (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, Path(folder) / file)
        os.environ[COPY] = folder
        try:
            yield
        finally:
            del os.environ[COPY]


def own_verifier_hash(verifier: str) -> str:
    """A hash of the user's files where `verifier` is a function of theirs, and so a part of every verdict."""
    if ":" not in verifier:
        return ""
    contents = [f"{path.as_posix()}\n".encode() + path.read_bytes() for path in files_of_the_user()]
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _is_without_effect(name: str) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in WITHOUT_EFFECT)


def _is_empty(file: Path) -> bool:
    """Whether there is no code in `file`, only a docstring: the mark of a package."""
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in _parsed(file).body)


def _targets(file: Path) -> set[str]:
    """Modules that `file` names in strings, as module or module:function."""
    strings = (node.value for node in ast.walk(_parsed(file)) if isinstance(node, ast.Constant))
    return {text.partition(":")[0] for text in strings if isinstance(text, str) and TARGET.fullmatch(text)}


def _named_neighbours(file: Path) -> set[Path]:
    """Python files in the folder of `file` that it names in strings."""
    strings = {node.value for node in ast.walk(_parsed(file)) if isinstance(node, ast.Constant)}
    return {other for other in file.parent.glob("*.py") if other.name in strings}


def _nodes(node: ast.AST, *, top_level_only: bool, with_types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not with_types and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if top_level_only and isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        yield child
        yield from _nodes(child, top_level_only=top_level_only, with_types=with_types)
