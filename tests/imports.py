"""Which modules of rlvr a module imports when it runs, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"


def module_file(name: str) -> Path | None:
    path = SOURCE / Path(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


def imported(file: Path, *, top_level_only: bool = False) -> set[str]:
    """Names of all modules that `file` imports, those under `if TYPE_CHECKING` left out."""
    names: set[str] = set()
    for node in _running(ast.parse(file.read_text()), top_level_only=top_level_only):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def closure(module: str, *, stop: frozenset[str] = frozenset()) -> set[str]:
    """`module` and all rlvr modules reached from it, not going into `stop`."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        file = module_file(name)
        if file is None or name in found or name in stop or name == "rlvr":
            continue
        found.add(name)
        todo += [other for other in imported(file) if other.startswith("rlvr.")]
        parent = name.rpartition(".")[0]
        todo += [parent] if parent != "rlvr" else []
    return found


def _running(node: ast.AST, *, top_level_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if top_level_only and isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        yield child
        yield from _running(child, top_level_only=top_level_only)
