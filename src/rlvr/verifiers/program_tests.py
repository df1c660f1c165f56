"""The tests of a programming problem: read them from JSON, turn them into runs, and compare the results."""

from __future__ import annotations

import ast
import builtins
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rlvr.verifiers.assertions import Split, with_numbers

FORMS = (
    'a JSON list, not empty, of {"stdin": TEXT, "stdout": TEXT}, {"assert": "assert f(2) == 4"} or '
    '{"call": "f", "args": [2], "kwargs": {}, "result": 4} (kwargs may be left out)'
)


@dataclass(frozen=True)
class Script:
    """A test that runs the program as a script: it must print `stdout` when it reads `stdin`."""

    stdin: str
    stdout: str

    def passes(self, printed: str) -> bool:
        """Whether `printed` equals `stdout` up to white space at the ends of lines and of the text."""
        return _lines(printed) == _lines(self.stdout)


@dataclass(frozen=True)
class Call:
    """A test that calls the program: harness.py gets `request`, and `passes` checks the value outside the sandbox."""

    request: dict[str, Any]
    passes: Callable[[Any], bool]

    @property
    def names(self) -> set[str]:
        """The names that the test expects of the program."""
        if "name" in self.request:
            return {self.request["name"]}
        nodes = list(ast.walk(ast.parse(f"{self.request['before']}\n{self.request['expression']}")))
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        own = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
        return used - own - set(dir(builtins))


def read_tests(gold: str) -> list[Script | Call]:
    """The tests in `gold`. Raises ValueError unless it has one of the FORMS."""
    try:
        tests = json.loads(gold)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the tests are not JSON ({error}); they must be {FORMS}") from None
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"the tests must be {FORMS}; found {gold[:80]!r}")
    return [_test(number, test) for number, test in enumerate(tests, 1)]


def _test(number: int, test: Any) -> Script | Call:
    keys = set(test) if isinstance(test, dict) else set()
    if keys == {"stdin", "stdout"} and all(isinstance(value, str) for value in test.values()):
        return Script(test["stdin"], test["stdout"])
    if keys == {"assert"} and isinstance(test["assert"], str):
        return _assertion(number, test["assert"])
    if keys | {"kwargs"} == {"call", "args", "kwargs", "result"}:
        request = {"name": test["call"], "args": test["args"], "kwargs": test.get("kwargs", {})}
        types = {"name": str, "args": list, "kwargs": dict}
        if all(isinstance(request[key], kind) for key, kind in types.items()) and request["name"].isidentifier():
            return Call(request, lambda result: same(result, test["result"]))
    raise ValueError(f"test {number} is {json.dumps(test)[:80]}; the tests must be {FORMS}")


def _assertion(number: int, source: str) -> Call:
    try:
        *before, last = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"test {number}, {source[:80]!r}, is not Python: {error}") from None
    if not isinstance(last, ast.Assert):
        raise ValueError(f"test {number}, {source[:80]!r}, must end with an assert statement")
    lines, condition = with_numbers(before, last.test)
    split = Split(condition)
    before_it = "\n".join(map(ast.unparse, lines))
    return Call({"before": before_it, "expression": ast.unparse(split.expression)}, split.holds)


def same(value: Any, expected: Any) -> bool:
    """Whether both are equal as JSON values: a tuple is a list, true is not 1, floats may differ by 1e-9 of the larger.

    A key that is a whole number equals its text, as in JSON's objects.
    """
    if isinstance(expected, list):
        is_list = isinstance(value, list | tuple) and len(value) == len(expected)
        return is_list and all(map(same, value, expected))
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return False
        named = {str(key) if type(key) is int else key: item for key, item in value.items()}
        is_whole = len(named) == len(value) and set(named) == set(expected)
        return is_whole and all(same(named[key], item) for key, item in expected.items())
    if isinstance(expected, bool) or isinstance(value, bool) or expected is None or value is None:
        return value is expected
    if isinstance(expected, float) and isinstance(value, int | float | Fraction | Decimal):
        return math.isclose(value, expected) if -(10**300) < value < 10**300 else bool(value == expected)
    if isinstance(expected, int | float):
        return isinstance(value, int | float | Fraction | Decimal) and bool(value == expected)
    return isinstance(value, str) and value == expected


def decode(value: Any) -> Any:
    """Decode a value that harness.py encoded. Raises ValueError for anything else."""
    if value is None or isinstance(value, bool):
        return value
    try:
        kind, content = value
        match kind:
            case "int":
                return int(content, 16)
            case "float":
                return float(content)
            case "complex":
                return complex(content)
            case "Decimal":
                return Decimal(content)
            case "Fraction":
                return Fraction(content)
            case "str":
                return bytes.fromhex(content).decode("utf-8", "surrogatepass")
            case "bytes":
                return bytes.fromhex(content)
            case "dict":
                return {decode(key): decode(item) for key, item in content}
            case "list" | "tuple" | "set" | "frozenset":
                make = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind]
                return make(decode(item) for item in content)
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"not a reply of the harness: {error}") from None
    raise ValueError(f"not a reply of the harness: {str(kind)[:40]}")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
