"""The user's code where it runs, in a worker process or in the sandbox: loaded, called, and its results read.

A file is run once per process. The single form of a reward gets one completion, the batch form all completions of a
question as lists, which is also how TRL calls its reward functions. A function that raises on one completion costs that
completion only. rewards/sandboxed.py takes this file
and its two helpers into the sandbox, so they import nothing else of the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rlvr.verifiers.workers.own_results import awaited, counted, described, listed, points_of, shown
from rlvr.verifiers.workers.reading import reads_messages

# parameter of the single form: parameter of the batch form
FORMS = {
    "completion": "completions",
    "prompt": "prompts",
    "num_tokens": "num_tokens",
    "answer": "answers",
    "extracted": "extracted",
}
OF_TRL = {"prompts", "completions", "answer"}  # TRL passes these to every reward function
Parameters = Mapping[str, inspect.Parameter]

COPY = "RLVR_USER_COPY"  # the variable that stages/code.py names, too: this file imports nothing of the package

_TO_CHATS = "; it was given texts: with messages: true in its settings, completions are chats, as in TRL"
_TO_TEXTS = "; it was given chats: with messages: false in its settings, completions are texts"
HINTS_OF_TEXTS = dict.fromkeys(("string indices must be integers", "'str' object has no attribute 'get'"), _TO_CHATS)
HINTS_OF_CHATS = dict.fromkeys(("'list' object has no attribute", "object, got 'list'"), _TO_TEXTS)

_modules: dict[str, tuple[str, ModuleType]] = {}  # by path: a hash of the source, and the module made from it
_instances: dict[tuple[str, str, str], Any] = {}  # of the user's classes, by module, class and options


def signature(*, path: str, function: str) -> dict[str, Any]:
    """The parameters as [name, kind, has a default], and those of the constructor where `function` names a class.

    `peak_bytes` is the address space that the process has taken so far, 0 where the system does not say.
    """
    with contextlib.chdir("."):
        target = _load(path, function)
        constructor, called = [], inspect.signature(target)
        if inspect.isclass(target):
            if not any("__call__" in vars(base) for base in target.__mro__):
                raise TypeError(f"the class {function} has no method __call__")
            constructor, called = list(called.parameters), inspect.signature(target.__call__)
    parameters = list(called.parameters.values())[inspect.isclass(target) :]  # without self
    listed = [[one.name, one.kind.name, one.default is not one.empty] for one in parameters]
    return {"parameters": listed, "constructor": constructor, "peak_bytes": _peak_bytes()}


def call(
    *, path: str, function: str, items: list[dict[str, Any]], options: Mapping[str, Any], messages: bool | None
) -> dict[str, list[Any]]:
    """The `points` that a function gives each of `items`, the completions of one question, and `messages`.

    An item has the names of FORMS and the row's other columns as `columns`. The function gets the values that it has
    parameters for, and None for a column that a row does not have. Points are NaN, with a message, for a completion on
    which the function raises or for which it returns no number. With `messages`, prompts and completions are lists of
    chat messages; None: as the function reads them. Raises what the function raises on all completions together only,
    and TypeError or ValueError for a result of the batch form that is not one value for each completion.
    """
    with contextlib.chdir("."):  # the function may leave the folder; the next call begins in it again
        target, rest = _target(path, function, options)
        hints = HINTS_OF_TEXTS
        parameters, where = inspect.signature(target).parameters, f"{path}:{function}"
        if messages or (messages is None and is_batch(parameters) and reads_messages(target, path)):
            items, hints = [_as_messages(item) for item in items], HINTS_OF_CHATS
        if is_batch(parameters):
            results = _together(target, parameters, items, rest, where)
        else:
            results = _singly(target, parameters, items, rest)
        scored = [points_of(result, where) for result in results]
    return {"points": [points for points, _ in scored], "messages": [_hinted(message, hints) for _, message in scored]}


def _hinted(message: str, hints: Mapping[str, str]) -> str:
    """The message, with the setting that changes what the function is given."""
    return message + next((hint for error, hint in hints.items() if error in message), "")


def verify(*, answer: str, gold: str, path: str, function: str) -> dict[str, Any]:
    """The verdict of a user's verifier, `function(answer, gold)`: a bool, or None where it does not apply.

    Parameters with these names get them in any order; others get the answer first.

    An exception and any other result are a fault: the answer is then unscorable, not wrong.
    """
    with contextlib.chdir("."):
        try:
            target, _ = _target(path, function, {})
            given = {"answer": answer, "gold": gold}
            parameters = inspect.signature(target).parameters.values()
            named = {one.name for one in parameters if one.kind is not one.POSITIONAL_ONLY}
            result = awaited([target(**given) if given.keys() <= named else target(answer, gold)])[0]
        except (Exception, SystemExit) as error:
            return {"outcome": "fault", "cause": "crash", "message": f"{path}:{function}: {described(error, path)}"}
    value = result.tolist() if hasattr(result, "tolist") else result
    if value is None or isinstance(value, bool):
        return {"outcome": {True: "right", False: "wrong", None: "not_applicable"}[value]}
    message = f"{path}:{function} returned {shown(result)}: a verifier returns True, False or None"
    return {"outcome": "fault", "cause": "crash", "message": message}


def check_gold(*, gold: str, path: str, function: str) -> dict[str, Any]:
    """Right for a gold that the user's verifier can read, which it shows as an answer; else the fault."""
    verdict = verify(answer=gold, gold=gold, path=path, function=function)
    return verdict if verdict["outcome"] == "fault" else {"outcome": "right"}


def _peak_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0
    return int(status.partition("VmPeak:")[2].split()[0]) * 1024


def is_batch(parameters: Iterable[str]) -> bool:
    """Whether a function with these parameters gets all completions at once; one with only ** does, too."""
    return "completion" not in parameters


def file_of(path: str) -> Path:
    """Where to read a file of the user: in the copy of user/ that the stage made when it began, if it made one."""
    return Path(os.environ.get(COPY, ""), path)


def _load(path: str, function: str) -> Any:
    source = file_of(path).read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    if path not in _modules or _modules[path][0] != digest:
        folder = str(file_of(path).resolve().parent)
        if folder not in sys.path:
            sys.path.append(folder)  # so that one file of user/ can import another
        module = ModuleType(f"rlvr_own_{digest[:16]}")
        module.__file__ = str(file_of(path).resolve())
        sys.modules[module.__name__] = module  # where dataclasses look for the names of their annotations
        exec(compile(source, path, "exec"), module.__dict__)
        _modules[path] = digest, module
    if not callable(target := _modules[path][1].__dict__.get(function)):
        raise TypeError(f"{path} has no function {function!r}")
    return target


def _target(path: str, function: str, options: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What to call, and the options it still takes. An instance of a class is made once, from the options it names."""
    target = _load(path, function)
    if not inspect.isclass(target):
        return target, dict(options)
    given = {name: options[name] for name in inspect.signature(target).parameters if name in options}
    key = target.__module__, function, json.dumps(given, sort_keys=True)
    if key not in _instances:
        _instances[key] = target(**given)
    return _instances[key], {name: value for name, value in options.items() if name not in given}


def _singly(
    target: Callable[..., Any], parameters: Parameters, items: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> list[Any]:
    """The result for each completion, or the exception that it raised."""
    results: list[Any] = []
    for item in items:
        values = {**item["columns"], **{name: item[name] for name in FORMS}}
        try:
            results.append(target(**_arguments(parameters, values, options, empty=None)))
        except (Exception, SystemExit) as error:
            results.append(error)
    return awaited(results)


def _together(
    target: Callable[..., Any],
    parameters: Parameters,
    items: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    where: str,
) -> list[Any]:
    """The results for all completions, or the exceptions of those that make the function raise by themselves.

    The others are then scored together again: a group's function may compare completions, so single results will not
    do, while a group without an unscorable completion is what all statistics see.
    """

    def ask(chosen: Sequence[Mapping[str, Any]]) -> Any:
        arguments = _arguments(parameters, _batched(chosen), options, empty=[None] * len(chosen))
        (result,) = awaited([target(**arguments)])
        if isinstance(result, BaseException):
            raise result
        return listed(result, len(chosen))

    def raised(item: Mapping[str, Any]) -> BaseException | None:
        try:
            ask([item])
        except (Exception, SystemExit) as error:
            return error
        return None

    try:
        results = ask(items)
    except (Exception, SystemExit):
        errors = [raised(item) for item in items]
        if not any(errors):
            raise
        rest = [item for item, error in zip(items, errors, strict=True) if error is None]
        others = iter(counted(ask(rest), len(rest), where) if rest else [])
        return [next(others) if error is None else error for error in errors]
    return counted(results, len(items), where)


def _batched(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = {name: None for item in items for name in item["columns"]}
    columns = {name: [item["columns"].get(name) for item in items] for name in names}
    filled = {group: [item[single] for item in items] for single, group in FORMS.items()}
    return columns | filled | {"answer": filled["answers"]}


def _arguments(
    parameters: Parameters, values: Mapping[str, Any], options: Mapping[str, Any], *, empty: Any
) -> dict[str, Any]:
    """The arguments of the function: an option of that name first, then a value of the pipeline or the row.

    ** gets what no parameter takes: the row's columns and, in the batch form, what TRL passes by these names.
    """
    known = {**values, **options}
    arguments: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            passed = OF_TRL if is_batch(parameters) and "answers" not in parameters else set()
            left_out = {*parameters, *options, *({*FORMS, *FORMS.values()} - passed)}
            arguments |= {column: value for column, value in values.items() if column not in left_out}
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        elif name in known:
            arguments[name] = known[name]
        elif parameter.default is inspect.Parameter.empty:
            arguments[name] = empty
    return arguments


def _as_messages(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item with its prompt and completion as chats, the way TRL passes them for conversational data."""
    chats = {"prompt": "user", "completion": "assistant"}
    return {**item, **{name: [{"role": role, "content": item[name]}] for name, role in chats.items()}}
