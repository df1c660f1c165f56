"""`rlvr deps`: write the code dependencies of each stage into dvc.yaml, as found from imports.

A stage depends on every module of rlvr that it reaches by an import, by a target such as "rlvr.verifiers.number:verify"
or by a file next to it that it names, such as "harness.py". Imports for type checkers change nothing and do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

SOURCE, PIPELINE = Path("src"), Path("dvc.yaml")
# Modules that a stage reaches but that cannot change its result: an edit re-runs nothing. `config` only checks values.
WITHOUT_EFFECT = ("rlvr.config", "rlvr.runtime")


def module_file(name: str, source: Path = SOURCE) -> Path | None:
    """The file of module `name`, or None when it is not a module of `source`."""
    path = source / Path(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def imported(file: Path, *, top_level_only: bool = False, with_types: bool = False) -> set[str]:
    """Names of everything that `file` imports; `with_types` includes imports under `if TYPE_CHECKING`."""
    names: set[str] = set()
    for node in _nodes(ast.parse(file.read_text()), top_level_only=top_level_only, with_types=with_types):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def reached(module: str, source: Path = SOURCE) -> set[Path]:
    """The files of `module` and of all that it reaches, without following those in WITHOUT_EFFECT."""
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
    return {file for file in files if not _is_empty(file)}


def code_dependencies(stage: str, source: Path = SOURCE) -> list[str]:
    """The code that `stage` depends on, as listed in dvc.yaml: a folder if all of it is reached, else single files."""
    files = reached(f"rlvr.stages.{stage}", source)
    folders = {file.parent for file in files if file.parent != source / "rlvr"}
    whole = {folder for folder in folders if all(file in files or _is_empty(file) for file in folder.rglob("*.py"))}
    outermost = {folder for folder in whole if not whole & set(folder.parents)}
    loose = {file for file in files if not outermost & set(file.parents)}
    return sorted(str(path) for path in outermost | loose)


def with_code(text: str, source: Path = SOURCE) -> str:
    """dvc.yaml with a new list of code for every stage. Other dependencies come first and stay unchanged."""
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    pipeline = yaml.load(text)
    for name, stage in pipeline["stages"].items():
        others = [dep for dep in stage["deps"] if not str(dep).startswith("src/")]
        code = code_dependencies(name, source)
        stage["deps"].clear()
        stage["deps"].extend([*others, *code])
    out = StringIO()
    yaml.dump(pipeline, out)
    return out.getvalue()


def main() -> None:
    before = PIPELINE.read_text()
    after = with_code(before)
    PIPELINE.write_text(after)
    print(f"{PIPELINE}: {'unchanged' if after == before else 'dependencies written; their stages will run again'}")


def _is_without_effect(name: str) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in WITHOUT_EFFECT)


def _is_empty(file: Path) -> bool:
    """Whether `file` holds no code, only a docstring, and so just marks a package."""
    return all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in ast.parse(file.read_text()).body
    )


def _targets(file: Path) -> set[str]:
    """Modules named in strings of `file`, as module or module:function."""
    strings = (node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
    return {text.partition(":")[0] for text in strings if isinstance(text, str) and text.startswith("rlvr.")}


def _named_neighbours(file: Path) -> set[Path]:
    """Python files in the folder of `file` that are named in its strings."""
    strings = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
    return {other for other in file.parent.glob("*.py") if other.name in strings}


def _nodes(node: ast.AST, *, top_level_only: bool, with_types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not with_types and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if top_level_only and isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        yield child
        yield from _nodes(child, top_level_only=top_level_only, with_types=with_types)
