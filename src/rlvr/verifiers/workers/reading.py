"""Whether a user's reward function reads chats or texts, seen from its code."""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CellType, CodeType, ModuleType
from typing import Any


def reads_messages(target: Any, path: str) -> bool:
    """Whether the function, or something of the user's that it uses, takes the "content" of a chat message."""
    folder, waiting, seen = Path(path).resolve().parent, [target], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(code := getattr(value, "__code__", None), CodeType):
            if any(map(_takes_content, _codes(code))):
                return True
            used = _used(value, code)
        else:  # a partial function, a class, or an object that can be called
            used = [getattr(value, "func", None), *vars(value if inspect.isclass(value) else type(value)).values()]
        waiting += [one for one in [*used, getattr(value, "__wrapped__", None)] if _is_from(one, folder)]
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _takes_content(code: CodeType) -> bool:
    """Whether the code has x["content"] or x.get("content")."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "PUSH_NULL")]
    return any(
        name.argval == "content"
        and (after.opname == "BINARY_SUBSCR" or after.argrepr == "[]" or before.argval == "get")
        for before, name, after in zip(steps, steps[1:], steps[2:], strict=False)
    )


def _used(function: Any, code: CodeType) -> list[Any]:
    """What the names in a function's code stand for: globals, members of modules, and variables around it."""
    names = [name for inner in _codes(code) for name in inner.co_names]
    values = [function.__globals__.get(name) for name in names]
    members = [vars(module).get(name) for module in values if isinstance(module, ModuleType) for name in names]
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    return [*values, *members, *cells]


def _is_from(value: Any, folder: Path) -> bool:
    """Whether a file of `folder` defines the function or class `value`, or the class of the object `value`."""
    module = sys.modules.get(str(getattr(getattr(value, "func", value), "__module__", None)))
    file = getattr(module, "__file__", None)
    return callable(value) and file is not None and Path(file).resolve().is_relative_to(folder)
