"""The user's functions before they are called: their files read, their parameters checked, their calls prepared.

The single form of a reward has a parameter `completion` and returns a number or None. The batch form has `completions`,
as TRL's reward functions do, and returns one of these for each completion of a question. docs/your-own-reward.md has
examples; verifiers/workers/own.py makes the calls.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.chat import Reading
from rlvr.runtime.files import why_missing
from rlvr.types import Answered, Problem, nearest
from rlvr.verifiers.workers.own import FORMS

FOLDER = Path("user")
EXAMPLE = (
    "def robotic(completion: str, *, penalty: float) -> float | None:  # options: {penalty: -3.0}\n"
    '    return penalty if "as an ai" in completion.lower() else 0.0'
)
ALLOWED = (
    "A function takes completion (single: str) or completions (batch: a list, those of one question). It may also take "
    "prompt, num_tokens, answer, extracted (batch: prompts, num_tokens, answer or answers, extracted), its options by "
    "their names, names of the data's columns, and **columns for all other columns. For example:"
)

Parameter = tuple[str, str, bool]  # its name, its kind as inspect names it, whether it has a default


@dataclass(frozen=True)
class Signature:
    """The parameters of a user's function.

    `required` and `optional` are names of the row's columns, `filled` those that the pipeline has a value for.
    """

    path: str
    function: str
    is_batch: bool
    required: tuple[str, ...]
    optional: tuple[str, ...]
    options: tuple[str, ...]
    takes_columns: bool
    filled: tuple[str, ...]


def check(spec: str, *, options: Mapping[str, Any]) -> Signature | None:
    """The signature of the function named by `spec` (user/FILE.py:FUNCTION), read without running the file.

    None where only running the file can tell, as for a partial function, a class or an import. Raises ValueError with
    what was found, what is allowed and an example. That includes `options` without a parameter and options that cannot
    be passed to a worker process.
    """
    for option, value in options.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(
                f"python: {spec}: options.{option}: {value!r} ({type(value).__name__}) must be a number, a text, true "
                "or false, null, or a list or mapping of these; put a date in quotes"
            ) from None
    try:
        node = find(spec)
    except ValueError as error:
        raise ValueError(f"python: {error}") from None
    return None if node is None else signature_of(_parameters(node), spec, options)


def find(spec: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function that `spec` names, None where its file gives the name another value. Raises ValueError."""
    file, _, name = spec.partition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"{spec!r} must be FILE:FUNCTION, for example user/my_rewards.py:robotic")
    tree = _parsed(Path(file))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    others = _bound(tree)
    if name not in functions and not others & {name, "*"}:
        raise ValueError(
            f"{spec}: the file defines no function {name!r} at its top level; it has "
            f"{_listed([*functions, *sorted(others - set(functions))]) or 'none'}{nearest(name, {*functions, *others})}"
        )
    node = functions.get(name)
    return None if node is None or node.decorator_list else node  # a decorator may change the parameters


def check_verifier(spec: str) -> None:
    """Raise ValueError unless the verifier named by `spec` can take an answer and a gold, as far as its file says."""
    if (node := find(spec)) is None:
        return
    listed = _parameters(node)
    needed = {name for name, kind, has_default in listed if not has_default and not kind.startswith("VAR")}
    named = {name for name, kind, _ in listed if kind in ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")}
    by_place = [kind for _, kind, _ in listed if kind.startswith("POSITIONAL")]
    takes_two = len(by_place) >= 2 or any(kind == "VAR_POSITIONAL" for _, kind, _ in listed)
    if not (needed <= {"answer", "gold"} <= named or (len(needed) <= 2 and takes_two)):
        raise ValueError(f"{spec} ({_listed([name for name, *_ in listed])}): a verifier takes answer and gold")


def check_columns(signature: Signature, columns: Collection[str]) -> None:
    """Raise ValueError unless every name that the function needs is an option or one of the data's `columns`."""
    missing = [name for name in signature.required if name not in columns]
    if missing:
        raise ValueError(
            f"{signature.path}:{signature.function} asks for {_listed(missing)}, which is neither an option nor a "
            f"column of the data: the columns are {_listed(sorted(columns)) or 'only question and answer'}"
            f"{nearest(missing[0], columns)}; give the parameter a default, or a value under options"
        )


def hidden_columns(signature: Signature, columns: Collection[str]) -> list[str]:
    """A note about columns of the data that the function cannot get, since the pipeline fills their names."""
    reserved = {*FORMS, *FORMS.values()} & set(columns)
    hidden = sorted(reserved if signature.takes_columns else reserved & set(signature.filled))
    if not hidden:
        return []
    return [
        f"the data has a column {_listed(hidden)}, a name that the pipeline fills itself: "
        f"{signature.function} gets that value; rename the column to pass it"
    ]


def arguments(
    spec: str,
    options: Mapping[str, Any],
    problem: Problem,
    completions: Sequence[Answered],
    readings: Sequence[Reading],
    *,
    messages: bool | None,
) -> dict[str, Any]:
    """The arguments of own.call for the completions of one question."""
    path, _, function = spec.partition(":")
    shared = {"prompt": problem.question, "answer": problem.answer, "columns": columns_of(problem)}
    items = [
        {"completion": completion.text, "num_tokens": completion.num_tokens, "extracted": reading.answer, **shared}
        for completion, reading in zip(completions, readings, strict=True)
    ]
    return {"path": path, "function": function, "items": items, "options": dict(options), "messages": messages}


def columns_of(problem: Problem) -> dict[str, Any]:
    """The values that a function may ask for by name: the row's columns, and the fields of every problem."""
    fields = {name: getattr(problem, name) for name in ("id", "question", "working", "level")}
    return fields | {"solution": problem.solution or problem.answer} | dict(problem.columns)


def _parsed(file: Path) -> ast.Module:
    if not file.resolve().is_relative_to(FOLDER.resolve()):
        raise ValueError(f"{file} must be inside {FOLDER}/, which the pipeline watches for changes")
    if not file.is_file():
        files = [str(path) for path in sorted(FOLDER.rglob("*.py"))]
        near = nearest(str(file), files)
        raise ValueError(f"{file} does not exist; the files are {_listed(files) or 'none'}{near}{why_missing()}")
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes
        place = f" line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{file}{place} is not valid Python: {error}") from None


def _bound(tree: ast.Module) -> set[str]:
    """Names that the file's top level may give a value other than by a plain def; * for an import of everything."""
    names = set[str]()
    for node in tree.body:
        inside = [node] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ast.walk(node)
        for one in inside:
            match one:
                case ast.Name(name, ast.Store()) | ast.ClassDef(name):
                    names.add(name)
                case ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                    names.add(name)
                case ast.Import(aliases) | ast.ImportFrom(names=aliases):
                    names |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
    return names


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[Parameter]:
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    first_default = len(positional) - len(given.defaults)
    listed = [
        (one.arg, "POSITIONAL_ONLY" if one in given.posonlyargs else "POSITIONAL_OR_KEYWORD", i >= first_default)
        for i, one in enumerate(positional)
    ]
    listed += [(given.vararg.arg, "VAR_POSITIONAL", False)] if given.vararg else []
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    listed += [(one.arg, "KEYWORD_ONLY", value is not None) for one, value in pairs]
    return listed + ([(given.kwarg.arg, "VAR_KEYWORD", False)] if given.kwarg else [])


def signature_of(
    parameters: Sequence[Parameter], spec: str, options: Collection[str], constructor: Collection[str] = ()
) -> Signature:
    """The signature of a function with these `parameters`; options may also go to the `constructor` of its class.

    Raises ValueError for parameters that the pipeline cannot fill.
    """
    names = [name for name, kind, _ in parameters if not kind.startswith("VAR_")]
    kinds = {kind for _, kind, _ in parameters}
    is_batch = "completion" not in names and ("completions" in names or "VAR_KEYWORD" in kinds)
    own_names = {*FORMS.values(), "answer"} if is_batch else set(FORMS)
    misplaced = sorted(({*FORMS, *FORMS.values()} - own_names) & set(names))

    def refuse(what: str) -> ValueError:
        end = "" if what.endswith("?") else "."
        return ValueError(f"python: {spec} ({', '.join(names) or 'no parameters'}): {what}{end} {ALLOWED}\n{EXAMPLE}")

    if "POSITIONAL_ONLY" in kinds or ("VAR_POSITIONAL" in kinds and "VAR_KEYWORD" not in kinds):
        raise refuse("parameters are given by name, so *args and positional-only ones cannot be filled")
    if not is_batch and "completion" not in names:
        raise refuse("it has neither completion nor completions")
    if misplaced:
        raise refuse(
            f"{_listed(misplaced)} belongs to the {'single' if is_batch else 'batch'} form, but this is the other one"
        )
    if reserved := sorted({*FORMS, *FORMS.values()} & set(options)):
        raise refuse(f"{_listed(reserved)} cannot be an option: the pipeline fills it")
    taken = [name for name in constructor if name in options]
    if unknown := sorted(set(options) - {*names, *taken}):
        raise refuse(f"no parameter for the option {_listed(unknown)}{nearest(unknown[0], names)}")
    columns = [
        (name, has_default)
        for name, kind, has_default in parameters
        if not kind.startswith("VAR_") and name not in own_names | set(options)
    ]
    path, _, function = spec.partition(":")
    return Signature(
        path,
        function,
        is_batch,
        tuple(name for name, has_default in columns if not has_default),
        tuple(name for name, has_default in columns if has_default),
        tuple(sorted(options)),
        "VAR_KEYWORD" in kinds,
        tuple(name for name in names if name in own_names),
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
