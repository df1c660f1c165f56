"""The user's reward functions: files in user/, checked without running them and called in a worker process.

The single form has a parameter `completion` and returns a number or None. The batch form has `completions` and returns
a list of these, one for each completion of a question. docs/your-own-reward.md has examples.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import inspect
import json
import math
import numbers
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rlvr.types import Answered, Problem, nearest

TARGET = "rlvr.rewards.custom:call"
FOLDER = Path("user")
# parameter of the single form: parameter of the batch form
FORMS = {"completion": "completions", "prompt": "prompts", "num_tokens": "num_tokens", "answer": "answers"}
EXAMPLE = (
    "def robotic(completion: str, *, penalty: float) -> float | None:  # options: {penalty: -3.0}\n"
    '    return penalty if "as an ai" in completion.lower() else 0.0'
)


@dataclass(frozen=True)
class Signature:
    """The parameters of a user's function: `required` and `optional` are names of the row's columns."""

    path: str
    function: str
    is_batch: bool
    required: tuple[str, ...]
    optional: tuple[str, ...]
    options: tuple[str, ...]
    takes_columns: bool


def check(spec: str, *, options: Mapping[str, Any]) -> Signature:
    """The signature of the function named by `spec` (user/FILE.py:FUNCTION), read without running the file.

    Raises ValueError with what was found, what is allowed and an example. That includes `options` without a parameter
    and options that cannot be passed to a worker process.
    """
    file, _, name = spec.partition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"python: {spec!r} must be FILE:FUNCTION, for example user/my_rewards.py:robotic")
    for option, value in options.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(
                f"python: {spec}: options.{option}: {value!r} ({type(value).__name__}) must be a number, a text, true "
                "or false, null, or a list or mapping of these; put a date in quotes"
            ) from None
    return _signature(_function(_parsed(Path(file)), spec, name), spec, options)


def check_columns(signature: Signature, columns: Collection[str]) -> None:
    """Raise ValueError unless every name that the function needs is an option or one of the data's `columns`."""
    missing = [name for name in signature.required if name not in columns]
    if missing:
        raise ValueError(
            f"{signature.path}:{signature.function} asks for {_listed(missing)}, which is neither an option nor a "
            f"column of the data: the columns are {_listed(sorted(columns)) or 'only question and answer'}"
            f"{nearest(missing[0], columns)}; give the parameter a default, or a value under options"
        )


def arguments(
    spec: str, options: Mapping[str, Any], problem: Problem, completions: Sequence[Answered]
) -> dict[str, Any]:
    """The arguments of TARGET for the completions of one question."""
    path, _, function = spec.partition(":")
    shared = {"prompt": problem.question, "answer": problem.answer, "columns": columns_of(problem)}
    items = [
        {"completion": completion.text, "num_tokens": completion.num_tokens, **shared} for completion in completions
    ]
    return {"path": path, "function": function, "items": items, "options": dict(options)}


def columns_of(problem: Problem) -> dict[str, Any]:
    """The values that a function may ask for by name: the row's columns, and the fields of every problem."""
    fields = ("id", "question", "working", "solution", "level")
    return {name: getattr(problem, name) for name in fields} | dict(problem.columns)


def _parsed(file: Path) -> ast.Module:
    if not file.resolve().is_relative_to(FOLDER.resolve()):
        raise ValueError(f"python: {file} must be inside {FOLDER}/, which the pipeline watches for changes")
    if not file.is_file():
        files = [str(path) for path in sorted(FOLDER.rglob("*.py"))]
        raise ValueError(
            f"python: {file} does not exist; the files are {_listed(files) or 'none'}{nearest(str(file), files)}"
        )
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes
        place = f" line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"python: {file}{place} is not valid Python: {error}") from None


def _function(tree: ast.Module, spec: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if name not in functions:
        raise ValueError(
            f"python: {spec}: the file defines no function {name!r} at its top level; it has "
            f"{_listed(list(functions)) or 'none'}{nearest(name, functions)}"
        )
    return functions[name]


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, spec: str, options: Collection[str]) -> Signature:
    arguments = node.args
    positional = [argument.arg for argument in arguments.args]
    names = [*positional, *(argument.arg for argument in arguments.kwonlyargs)]
    given = set(positional[len(positional) - len(arguments.defaults) :] if arguments.defaults else ())
    given |= {a.arg for a, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value is not None}
    is_batch = "completions" in names
    own_names, other_names = (set(FORMS.values()), set(FORMS)) if is_batch else (set(FORMS), set(FORMS.values()))

    def refuse(what: str) -> ValueError:
        return ValueError(
            f"python: {spec} ({', '.join(names) or 'no parameters'}): {what}. A function takes completion (single: "
            "str) or completions (batch: list[str], those of one question). It may also take prompt, num_tokens, "
            "answer (batch: prompts, num_tokens, answers), its options by their names, names of the data's columns, "
            f"and **columns for all other columns. For example:\n{EXAMPLE}"
        )

    if arguments.vararg or arguments.posonlyargs:
        raise refuse("parameters are given by name, so *args and positional-only ones cannot be filled")
    if not is_batch and "completion" not in names:
        raise refuse("it has neither completion nor completions")
    if misplaced := sorted((other_names - own_names) & set(names)):
        raise refuse(
            f"{_listed(misplaced)} belongs to the {'single' if is_batch else 'batch'} form, but this is the other one"
        )
    if reserved := sorted((set(FORMS) | set(FORMS.values())) & set(options)):
        raise refuse(f"{_listed(reserved)} cannot be an option: the pipeline fills it")
    if unknown := sorted(set(options) - set(names)):
        raise refuse(f"no parameter for the option {_listed(unknown)}{nearest(unknown[0], names)}")
    columns = [name for name in names if name not in own_names | set(options)]
    return Signature(
        spec.partition(":")[0],
        node.name,
        is_batch,
        tuple(name for name in columns if name not in given),
        tuple(name for name in columns if name in given),
        tuple(sorted(options)),
        arguments.kwarg is not None,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


# The rest runs in a worker process.

_modules: dict[str, tuple[str, ModuleType]] = {}  # by path: a hash of the source, and the module made from it


def call(*, path: str, function: str, items: list[dict[str, Any]], options: Mapping[str, Any]) -> list[float | None]:
    """The points that `function` of the file `path` gives each of `items`, the completions of one question.

    An item has completion, prompt, num_tokens, answer, and the row's other columns as `columns`. The function gets the
    values that it has parameters for, and None for a column that a row does not have. Raises what the function raises,
    and TypeError or ValueError for a result that is not points, naming the function, the result and what is allowed.
    """
    target = _load(path, function)
    where = f"{path}:{function}"
    parameters = inspect.signature(target).parameters
    if "completions" in parameters:
        result = _awaited(target(**_arguments(parameters, _batched(items), options)))
        return _points_of_batch(result, len(items), where)
    results = [target(**_arguments(parameters, _flat(item), options)) for item in items]
    if any(inspect.isawaitable(result) for result in results):
        results = asyncio.run(_gathered(results))
    return [_points(result, where) for result in results]


def _load(path: str, function: str) -> Callable[..., Any]:
    source = Path(path).read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    if path not in _modules or _modules[path][0] != digest:
        folder = str(Path(path).resolve().parent)
        if folder not in sys.path:
            sys.path.append(folder)  # so that one file of user/ can import another
        module = ModuleType(f"rlvr_own_{digest[:16]}")
        module.__file__ = str(Path(path).resolve())
        sys.modules[module.__name__] = module  # where dataclasses look for the names of their annotations
        exec(compile(source, path, "exec"), module.__dict__)
        _modules[path] = digest, module
    target: Callable[..., Any] = _modules[path][1].__dict__[function]
    return target


def _flat(item: Mapping[str, Any]) -> dict[str, Any]:
    return {**item["columns"], **{name: item[name] for name in FORMS}}


def _batched(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = {name: None for item in items for name in item["columns"]}
    columns = {name: [item["columns"].get(name) for item in items] for name in names}
    return columns | {plural: [item[name] for item in items] for name, plural in FORMS.items()}


def _arguments(
    parameters: Mapping[str, inspect.Parameter], values: dict[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of the function: an option of that name first, then a value of the pipeline or the row."""
    is_batch = "completions" in parameters
    empty = [None] * len(values["completions"]) if is_batch else None
    known = values | dict(options)
    arguments: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            filled = {*parameters, *FORMS, *FORMS.values(), *options}
            arguments |= {column: value for column, value in values.items() if column not in filled}
        elif name in known:
            arguments[name] = known[name]
        elif parameter.default is inspect.Parameter.empty:
            arguments[name] = empty
    return arguments


def _awaited(result: Any) -> Any:
    return asyncio.run(_gathered([result]))[0] if inspect.isawaitable(result) else result


async def _gathered(results: Sequence[Any]) -> list[Any]:
    waiting = [result for result in results if inspect.isawaitable(result)]
    done = iter(await asyncio.gather(*waiting))
    return [next(done) if inspect.isawaitable(result) else result for result in results]


def _points_of_batch(result: Any, count: int, where: str) -> list[float | None]:
    values = result.tolist() if hasattr(result, "tolist") else result  # arrays, without importing numpy or torch
    if not isinstance(values, list | tuple):
        raise TypeError(f"{where} returned {_shown(result)}: the batch form returns a list of {count} numbers or Nones")
    if len(values) != count:
        raise ValueError(f"{where} returned {len(values)} values for {count} completions: return one for each")
    return [_points(value, where) for value in values]


def _points(result: Any, where: str) -> float | None:
    value = result.tolist() if hasattr(result, "tolist") else result
    if value is None:
        return None
    if not isinstance(value, numbers.Real):
        raise TypeError(
            f"{where} returned {_shown(result)} for a completion: return a number, or None if it does not apply"
        )
    try:
        points = float(value)
    except OverflowError:
        points = math.inf
    if not math.isfinite(points):
        raise ValueError(f"{where} returned {_shown(result)} for a completion: points must be finite numbers")
    return points


def _shown(result: Any) -> str:
    if isinstance(result, int):  # an int of 5,000 digits has no repr
        return f"an int of {result.bit_length()} bits"
    text = repr(result)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(result).__name__})"
