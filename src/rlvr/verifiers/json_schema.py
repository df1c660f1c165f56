"""Check JSON with a JSON Schema. Only called in a worker, since a schema's patterns may backtrack forever."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

from rlvr.verifiers.fences import unfence
from rlvr.verifiers.json_formats import CHECKED
from rlvr.verifiers.verdict import GOLD, RIGHT, UNPARSABLE, Verdict, fault, wrong

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # of a host name
DEPTH = 32  # nesting of the answer; a recursive schema takes many Python frames per level
MESSAGE_LENGTH = 300
REFERENCES = ("$ref", "$dynamicRef")


def verify(answer: str, gold: str) -> Verdict:
    """Right if `answer` is JSON, bare or in a code fence, that the JSON Schema `gold` allows.

    The JSON is strict: no NaN, no number beyond the range of a double, no key twice. Supports drafts 3 to 2020-12, as
    named by $schema, else 2020-12. A $ref to another document is never fetched. multipleOf is exact: 19.99 is a
    multiple of 0.01. The formats of json_formats.py are checked, others are not. Source: https://json-schema.org
    """
    try:
        schema = validator(gold)
    except (ValueError, SchemaError, RecursionError):
        return check_gold(gold)
    try:
        value = strict(unfence(answer))
    except (ValueError, RecursionError) as error:
        return wrong(UNPARSABLE, f"not JSON: {shorten(error)}")
    if depth(value) > DEPTH:
        return wrong(UNPARSABLE, f"nested more than {DEPTH} levels deep")
    try:
        complaint = next(schema.iter_errors(value), None)
    except (Unresolvable, re.error, RecursionError) as failure:
        return fault(GOLD, f"the schema cannot be applied: {shorten(failure)}")
    if complaint is None:
        return RIGHT
    return Verdict("wrong", None, f"{complaint.json_path}: {complaint.message}"[:MESSAGE_LENGTH])


def check_gold(gold: str) -> Verdict:
    """A fault unless `gold` is a JSON Schema that can be applied: each $ref leads to a schema."""
    try:
        schema = validator(gold)
    except (ValueError, SchemaError, RecursionError) as error:
        return fault(GOLD, f"the gold is not a JSON Schema: {shorten(error)}")
    try:
        next(schema.iter_errors(None), None)
    except (re.error, RecursionError, Unresolvable) as failure:
        return fault(GOLD, f"the schema cannot be applied: {shorten(failure)}")
    return RIGHT


@lru_cache(maxsize=256)  # the completions of a group share a gold
def validator(gold: str) -> Validator:
    schema = strict(gold)
    if not isinstance(schema, dict | bool):
        raise ValueError(f"a schema is an object or a boolean, not a {type(schema).__name__}")
    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    check_references(schema, str(kind.META_SCHEMA.get("$schema", "")))
    exact = extend(kind, {"multipleOf": multiple_of, "divisibleBy": multiple_of})
    # only the known drafts: the default registry asks the network
    return exact(schema, registry=REGISTRY, format_checker=FORMATS)


def check_references(schema: dict[str, Any] | bool, dialect: str) -> None:
    """Raise ValueError for a $ref, however deep, that leads nowhere. Nothing is fetched."""
    root: Resource[Any] = specification_with(dialect).create_resource(schema)
    todo, seen = [(root, REGISTRY.resolver_with_root(root))], set[int]()
    while todo:
        part, resolver = todo.pop()
        if id(part.contents) in seen:
            continue
        seen.add(id(part.contents))
        with suppress(AttributeError, TypeError):  # what draft 3 calls extends, which the library takes for a list
            todo += [(inner, resolver.in_subresource(inner)) for inner in part.subresources()]
        values = part.contents.items() if isinstance(part.contents, dict) else ()
        for reference in [value for key, value in values if key in REFERENCES and isinstance(value, str)]:
            try:
                found = resolver.lookup(reference)
                if not isinstance(found.contents, dict | bool):
                    raise ValueError("no schema")
                todo.append((specification_with(dialect).create_resource(found.contents), found.resolver))
            except (Unresolvable, ValueError):
                raise ValueError(f"its $ref {reference!r} leads nowhere in it, and nothing is fetched") from None


def multiple_of(_: Validator, step: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    """The keyword multipleOf for decimals as they are written."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (Fraction(repr(value)) / Fraction(repr(step))).denominator != 1:
        yield ValidationError(f"{value!r} is not a multiple of {step!r}")


def _formats() -> FormatChecker:
    """Those of CHECKED, whatever optional packages of jsonschema are installed, with the ones that it leaves out."""
    checker = FormatChecker(FormatChecker.checkers.keys() & set(CHECKED))
    time = r"\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)"
    patterns = {
        "email": r"[^@\s]+@[^@\s]+",
        "hostname": rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*",
        "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+",
        "date-time": rf"\d{{4}}-\d\d-\d\d[Tt ]{time}",
        "time": time,
    }
    for name, pattern in patterns.items():
        checker.checks(name)(partial(_fits, re.compile(pattern), {"date-time": "", "time": "2000-01-01T"}.get(name)))
    return checker


def _fits(pattern: re.Pattern[str], day: str | None, value: object) -> bool:
    """Whether a text fits; with `day`, which goes before it, it must also be a moment that there is."""
    if not isinstance(value, str):
        return True
    if not pattern.fullmatch(value):
        return False
    try:
        return day is None or bool(datetime.fromisoformat(day + value.upper().replace(" ", "T")))
    except ValueError:
        return False


def strict(text: str) -> Any:
    """Parse `text` as strict JSON. Raises ValueError (and RecursionError for deep nesting)."""
    text = text.removeprefix("\ufeff")  # a byte order mark, as editors on Windows write it
    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite, parse_int=bounded)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice in an object")
    return values


def refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is out of range")
    return number


def bounded(text: str) -> int:
    finite(text)
    return int(text)


def depth(value: Any) -> int:
    """The levels of arrays and objects, counted up to DEPTH + 1."""
    level, todo = 0, [value]
    while level <= DEPTH:
        todo = [item for item in todo if isinstance(item, dict | list)]
        if not todo:
            break
        level += 1
        todo = [child for item in todo for child in (item.values() if isinstance(item, dict) else item)]
    return level


def shorten(error: Exception) -> str:
    return ascii(str(error).partition("\n")[0])[:MESSAGE_LENGTH]


FORMATS = _formats()
