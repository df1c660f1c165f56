"""Programs against tests: what is right, what is wrong and why, and what of a test reaches the program."""

from __future__ import annotations

import json
import marshal
from textwrap import indent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers import program_tests
from rlvr.verifiers.fences import program_in
from rlvr.verifiers.python import verify
from rlvr.verifiers.sandbox import harness
from rlvr.verifiers.sandbox import run as sandbox
from rlvr.verifiers.verdict import GOLD, WORKER, Verdict
from support.sandboxed import need_bubblewrap

LIMITS: dict[str, Any] = {
    "wall_seconds": 10.0,
    "cpu_seconds": 1.0,
    "memory_mib": 256,
    "file_mib": 4,
    "processes": 4,
    "output_kib": 32,
}
DOUBLE = "def f(x):\n    return 2 * x"


@pytest.fixture(scope="module", autouse=True)
def _bubblewrap() -> None:
    need_bubblewrap()


def verified(answer: str, *tests: dict[str, Any], **limits: Any) -> Verdict:
    return verify(answer, json.dumps(tests), kind="bubblewrap", **LIMITS | limits)


def call(result: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"call": "f", "args": list(args), "kwargs": kwargs, "result": result}


RIGHT = {
    "a script": ("print(int(input()) * 2)", {"stdin": "4\n", "stdout": "8"}),
    "white space at the ends": ("print('a  ')\nprint()\nprint('b\\n\\n')", {"stdin": "", "stdout": "a\n\nb"}),
    "a main guard": ("if __name__ == '__main__':\n    print(1)", {"stdin": "", "stdout": "1\n"}),
    "sys.exit(0)": ("import sys\nprint(1)\nsys.exit(0)", {"stdin": "", "stdout": "1"}),
    "exit()": ("print(1)\nexit()\nprint(2)", {"stdin": "", "stdout": "1"}),
    "exit(0)": ("def main():\n    print(1, end='')\n    exit(0)\nmain()", {"stdin": "", "stdout": "1"}),
    "quit()": ("if input() == '0':\n    quit()\nprint(1)", {"stdin": "0", "stdout": ""}),
    "a caught exit()": ("try:\n    exit(3)\nexcept SystemExit as e:\n    print(e.code)", {"stdin": "", "stdout": "3"}),
    "output at exit": ("import atexit\natexit.register(print, 1)", {"stdin": "", "stdout": "1"}),
    "output of a thread": (
        "import threading\nthreading.Thread(target=print, args=(1,)).start()",
        {"stdin": "", "stdout": "1"},
    ),
    "a file of its own": ("open('a', 'w').write('1')\nprint(open('a').read())", {"stdin": "", "stdout": "1"}),
    "a call": (DOUBLE, call(8, 4)),
    "a call by keyword": (DOUBLE, call(8, x=4)),
    "a fence": (f"Here:\n```python\n{DOUBLE}\n```\n", call(8, 4)),
    "a fence that does not end": (f"```\n{DOUBLE}", call(8, 4)),
    "a tuple is a list": ("def f(x): return x, (x,)", call([1, [1]], 1)),
    "almost the same float": ("def f(x): return x / 10 * 3", call(0.3, 1)),
    "a whole float": ("def f(x): return x / 2", call(2, 4)),
    "a subclass of dict": ("from collections import Counter\nf = Counter", call({"a": 2, "b": 1}, "aba")),
    "keys that are numbers": ("def f(x): return {x: [None, True]}", call({"1": [None, True]}, 1)),
    "text of every kind": ("def f(x): return x", call('ä"\\\n\0€', 'ä"\\\n\0€')),
    "printing beside the result": ("def f(x):\n    print('hello')\n    return x", call(1, 1)),
    "a standard library": ("import json, decimal, datetime, itertools, sqlite3\ndef f(x): return x", call(1, 1)),
    "an assert with ==": (DOUBLE, {"assert": "assert f(4) == 8"}),
    "an assert turned round": (DOUBLE, {"assert": "assert 8 == f(4)"}),
    "an assert with a set": ("def f(x): return set(x)", {"assert": "assert f('aab') == {'a', 'b'}"}),
    "an assert with in": (DOUBLE, {"assert": "assert f(2) in (3, 4)"}),
    "an assert with is": ("def f(x): pass", {"assert": "assert f(2) is None"}),
    "an assert with <": (DOUBLE, {"assert": "assert abs(f(2) - 4) < 0.1"}),
    "an assert of a truth": (DOUBLE, {"assert": "assert f(2)"}),
    "an assert with not": (DOUBLE, {"assert": "assert not f(0)"}),
    "an assert of two calls": (DOUBLE, {"assert": "assert f(2) == f(1) + f(1), 'twice'"}),
    "an assert after lines": (DOUBLE, {"assert": "a = [1]\na.append(f(1))\nassert a == [1, 2]"}),
}

WRONG = {  # cause, program, test
    "another number": (None, DOUBLE, call(9, 4)),
    "true is not 1": (None, "def f(x): return True", call(1, 4)),
    "1 is not true": (None, "def f(x): return 1", call(True, 4)),
    "text is not a number": (None, "def f(x): return '8'", call(8, 4)),
    "None is not false": (None, "def f(x): return None", call(False, 4)),
    "a shorter list": (None, "def f(x): return [x]", call([4, 4], 4)),
    "a set is not a list": (None, "def f(x): return {x}", call([4], 4)),
    "another key": (None, "def f(x): return {'b': x}", call({"a": 4}, 4)),
    "a value that cannot be compared": (None, "def f(x): return object()", call(4, 4)),
    "not a number": (None, "def f(x): return float('nan')", call(4.0, 4)),
    "an assert that is false": (None, DOUBLE, {"assert": "assert f(4) == 9"}),
    "an assert of two calls that is false": (None, DOUBLE, {"assert": "assert f(4) == f(5)"}),
    "types that cannot be ordered": (None, "def f(x): return 'a'", {"assert": "assert f(4) < 3"}),
    "nothing": (None, "", {"stdin": "", "stdout": "1"}),
    "another text": (None, "print(2)", {"stdin": "", "stdout": "1"}),
    "text in front": (None, "print(' 1')", {"stdin": "", "stdout": "1"}),
    "an exception": ("crash", "def f(x): return 1 / 0", call(1, 4)),
    "an exception in an assert": ("crash", DOUBLE, {"assert": "assert f(None) == 1"}),
    "no function": ("crash", "def g(x): return x", call(1, 4)),
    "the right output, then an error": ("crash", "print(1)\nraise ValueError('late')", {"stdin": "", "stdout": "1"}),
    "exit with a status": ("crash", "print(1)\nexit(3)", {"stdin": "", "stdout": "1"}),
    "quit with a message": ("crash", "print(1)\nquit('no')", {"stdin": "", "stdout": "1"}),
    "exit in a call": ("crash", "def f(x): exit()", call(1, 4)),
    "an error status": ("crash", "print(1)\nraise SystemExit(3)", {"stdin": "", "stdout": "1"}),
    "no more input": ("crash", "input()\ninput()", {"stdin": "1\n", "stdout": "1"}),
    "an endless call": ("timeout", "def f(x):\n    while True: pass", call(1, 4)),
    "much memory in a call": ("memory", "def f(x): return bytearray(10**10)", call(1, 4)),
    "much output in a call": ("output", "def f(x): return 'x' * 10**6", call(1, 4)),
    "prose": ("unparsable", "I think it is 8.", call(8, 4)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right(name: str) -> None:
    answer, test = RIGHT[name]
    assert verified(answer, test) == Verdict("right", details=counts(1, 1, 1, 1))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_with_its_cause(name: str) -> None:
    cause, answer, test = WRONG[name]
    verdict = verified(answer, test)
    assert (verdict.outcome, verdict.cause) == ("wrong", cause), verdict
    expected = counts(int(cause != "unparsable"), int(cause is None), 0, 1)
    assert verdict.details == expected
    assert verdict.message


def counts(compiles: int, runs: int, passed: int, total: int) -> dict[str, float]:
    return {"compiles": compiles, "runs": runs, "tests_passed": passed, "tests_total": total}


def test_tests_of_all_forms_are_counted_together() -> None:
    program = f"{DOUBLE}\nif __name__ == '__main__':\n    print(f(int(input())))"
    tests = [
        {"stdin": "2", "stdout": "4"},
        {"stdin": "2", "stdout": "5"},
        call(6, 3),
        call(7, 3),
        {"assert": "assert f('a') == 'aa'"},
        {"assert": "assert f(None) == 1"},
    ]
    verdict = verified(program, *tests)
    assert verdict.details == counts(1, 0, 3, 6)
    assert (verdict.outcome, verdict.cause) == ("wrong", "crash")


def test_what_passed_before_a_hang_still_counts() -> None:
    verdict = verified("def f(x):\n    while x > 1: pass\n    return x", call(1, 1), call(2, 2), call(0, 0))
    assert verdict.cause == "timeout"
    assert verdict.details == counts(1, 0, 1, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[]", "not empty"),
        ('{"stdin": "", "stdout": ""}', "JSON list"),
        ('[{"stdin": ""}]', "test 1"),
        ('[{"stdin": 1, "stdout": "1"}]', "test 1"),
        ('[{"call": "f", "args": [1], "result": 1}, {"call": "f(", "args": [], "result": 1}]', "test 2"),
        ('[{"call": "f", "args": {"x": 1}, "result": 1}]', "test 1"),
        ('[{"assert": "f(2) == 4"}]', "end with an assert"),
        ('[{"assert": "assert f(2 =="}]', "not Python"),
        ("[" * 100000, "not JSON"),
    ],
)
def test_tests_that_cannot_be_read_are_our_fault(text: str, says: str) -> None:
    verdict = verify("print(1)", text, kind="bubblewrap", **LIMITS)
    assert (verdict.outcome, verdict.cause) == ("fault", GOLD)
    assert says in verdict.message


def test_a_sandbox_that_does_not_start_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.verifiers.sandbox.bubblewrap.command", lambda **_: ["bwrap", "--no-such-option"])
    verdict = verified("print(1)", {"stdin": "", "stdout": "1"})
    assert (verdict.outcome, verdict.cause) == ("fault", WORKER)


def test_a_verdict_is_json() -> None:
    verdict = verified("print('\\ud800'.encode('utf-16', 'surrogatepass'))", {"stdin": "", "stdout": "1"})
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


DOCUMENTED = """\
def x(y):
    '''Double y.

    ```python
    x(1)
    ```

    ```
    2
    ```
    '''
    return 2 * y
"""


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("First ```py\nx = 2\n``` then\n```\nx = 1\n``` done", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("```", ""),
        ("```python\nx = 1\n```\nFor example:\n```python\nprint(x)\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nIt prints\n```\n1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```bash\npython x.py\n```", "x = 1\n"),
        ("```Python\nx = 1\n```\n```python\nx = (\n```", "x = (\n"),
        ("```\nx: int = 1\n```\n```\nx == 1\n```", "x: int = 1\n"),
        ("```python\nprint(2)\n```\n```text\n2\n```", "print(2)\n"),
        ("```\nprint(2)\n```\n```\nhello, world\n```", "print(2)\n"),
        ("```\nprint(2)\n```\n```\n[1, 2]\n```", "print(2)\n"),
        ("1. Code:\n   ```python\n   x = 1\n   ```\n2. Done", "x = 1\n"),
        ("- ```python\n  if 1:\n    x = 1\n  ```", "if 1:\n  x = 1\n"),
        ("```python\n    # first\n    x = 1\n    ```", "# first\nx = 1\n"),
        ("\t```python\n\tx = 1\n\n\ty = 2\n\t```", "x = 1\n\ny = 2\n"),
        ("  ```python\nx = 1\n  ```", "x = 1\n"),
        (f"```python\n{DOCUMENTED}```\nDone.", DOCUMENTED),
        (f"  ```python\n{indent(DOCUMENTED, '  ')}  ```\nDone.", DOCUMENTED),
        ("```python\nx = '```'\ny = 2\n```", "x = '```'\ny = 2\n"),
        ('```python\nx = """\n```\n"""\n```\nDone.', 'x = """\n```\n"""\n'),
        ("```python\nx = 1  # as ```y```\ny = 2\n```", "x = 1  # as ```y```\ny = 2\n"),
        ("````python\nx = '```'\n````", "x = '```'\n"),
        ("Call ```x(1)``` so:\n```python\nx = print\n```", "x = print\n"),
        ("```python\nx = 1```\nDone.", "x = 1"),
        ("```python\nx = (\n```\nor\n```python\nx = 1\n```", "x = 1\n"),
    ],
)
def test_the_program_is_the_last_fence_that_defines_what_the_tests_call(answer: str, program: str) -> None:
    assert program_in(answer, {"x"}) == program


def test_the_names_that_tests_expect() -> None:
    tests = [
        call(1),
        {"assert": "import math\na = [2]\nassert [g(b) for b in a] == [math.pi] and len(a) == h"},
        {"assert": "def helper(y):\n    return y\nassert Box(helper(1)).size == 1"},
    ]
    read = program_tests.read_tests(json.dumps(tests))
    assert [test.names for test in read if isinstance(test, program_tests.Call)] == [{"f"}, {"g", "h"}, {"Box"}]


OBJECT = (
    "class Any:\n"
    "    __sub__ = __rsub__ = __round__ = lambda *_: 0\n"
    "    __abs__ = __float__ = lambda _: 1.4142\n"
    "    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = lambda *_: True\n"
    "def f(x):\n    return Any()"
)
TOLERANCES = [
    "assert abs(f(2) - 1.4142) < 0.001",
    "assert abs(1.4142 - f(2)) <= 1e-3",
    "assert 0.001 > abs(f(2) - 1.4142)",
    "assert 1.414 < f(2) < 1.415",
    "assert f(2) > 1.4 and f(2) < 1.5",
    "assert -0.001 < f(2) - 1.4142 < 0.001",
    "assert abs(f(2) - 1.4142) / 1.4142 < 0.001",
    "assert round(abs(f(2) - 1.4142), 2) == 0",
    "import math\nassert math.isclose(f(2), 1.41421356, rel_tol=1e-6)",
    "import math\nassert math.fabs(f(2) - 1.4142) < 1e-3",
    "assert (f(2) - 1.4142) ** 2 < 1e-6",
    "assert f(2) ** 2 - 2 < 1e-3 and f(2) ** 2 - 2 > -(10 ** -3)",
    "assert not abs(f(2) - 1.4142) >= 0.001",
    "assert round(f(2), 2) == 1.41",
    "assert 14 == round(f(2) * 10)",
    "expected = 1.4142\nassert abs(f(2) - expected) < 1e-3",
    "x, tolerance = 2, 0\nlimit = 10 ** -3\nassert abs(f(x) - 1.4142) < limit",
]
CONSTANTS = [
    "assert f(1) == 2 + 3",
    "assert f(1) == max(5, 4)",
    "assert f(1) == len('abcde') == sum([2, 3])",
    "assert 2 ** 3 - 3 == f(1)",
    "assert f(1) in set([5, 7])",
    "assert not f(1) != 5",
    "assert not f(1) != 10 // 2",
]


@pytest.mark.parametrize("source", TOLERANCES)
def test_an_object_of_the_program_passes_no_tolerance(source: str) -> None:
    assert verified("def f(x):\n    return x ** 0.5", {"assert": source}).outcome == "right"
    assert verified("def f(x):\n    return x ** 0.6", {"assert": source}).outcome == "wrong"
    assert verified(OBJECT, {"assert": source}).outcome == "wrong"


@pytest.mark.parametrize("source", CONSTANTS)
def test_an_object_of_the_program_equals_no_constant(source: str) -> None:
    equal = (
        "class Equal:\n    __eq__ = lambda *_: True\n    __ne__ = lambda *_: False\n    __hash__ = lambda _: hash(5)\n"
    )
    assert verified("def f(x):\n    return x + 4", {"assert": source}).outcome == "right"
    assert verified("def f(x):\n    return x + 5", {"assert": source}).outcome == "wrong"
    assert verified(f"{equal}def f(x):\n    return Equal()", {"assert": source}).outcome == "wrong"


@pytest.mark.parametrize(
    "source", ["assert f(1) == 9 ** 9 ** 9", "assert f(1) == 1 / 0", "assert f(1) == 'a' * 10 ** 12"]
)
def test_what_is_no_small_constant_is_left_to_the_sandbox(source: str) -> None:
    assert verified("def f(x):\n    return x", {"assert": source}).outcome == "wrong"


def test_objects_with_operators_are_still_compared_by_their_class() -> None:
    program = (
        "class V:\n    def __init__(self, a): self.a = a\n    def __sub__(self, other): return V(self.a - other.a)\n"
        "    def __abs__(self): return abs(self.a)\n    def __mul__(self, k): return V(self.a * k)\n"
        "    def __eq__(self, other): return self.a == other.a"
    )
    tests = ["assert abs(V(3) - V(1)) < 3", "assert V(2) * 2 == V(4)", "assert not V(1) == V(2)"]
    assert verified(program, *({"assert": test} for test in tests)).outcome == "right"


NUMBERS = "from fractions import Fraction\nfrom decimal import Decimal\n"


@pytest.mark.parametrize(
    ("returned", "test"),
    [
        ("Fraction(3 * x)", call(15, 5)),
        ("Fraction(x, 2)", call(2.5, 5)),
        ("Fraction(-x, -2)", call(2.5, 5)),
        ("Decimal(x)", call(5, 5)),
        ("Fraction(3 * x)", {"assert": "assert f(5) == 15"}),
        ("Decimal(x) / 2", {"assert": "assert f(5) == 2.5"}),
        ("complex(x, 1)", {"assert": "assert f(5) == 5 + 1j"}),
        ("Fraction(1, 3)", {"assert": "assert abs(f(5) - 0.3333) < 0.001"}),
    ],
)
def test_exact_numbers_are_compared_as_numbers(returned: str, test: dict[str, Any]) -> None:
    assert verified(f"{NUMBERS}def f(x):\n    return {returned}", test).outcome == "right"
    assert verified(f"{NUMBERS}def f(x):\n    return {returned} + 1 if x else 0", test).outcome == "wrong"


EXPECTED = "a-result-to-hide"


def test_no_expected_result_enters_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def dumps(job: Any) -> bytes:
        sent.append(marshal.dumps(job))
        return sent[-1]

    monkeypatch.setattr(sandbox, "dumps", dumps)
    tests = [call(EXPECTED, 1), {"stdin": "", "stdout": EXPECTED}, {"assert": f"assert f(2) == [1, '{EXPECTED}']"}]
    verified(DOUBLE, *tests)
    assert len(sent) == 1
    assert b"f(2)" in sent[0]
    assert EXPECTED.encode() not in sent[0]


def json_values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
    )


EXACT = st.none() | st.booleans() | st.integers() | st.text()


@given(json_values(EXACT | st.floats(allow_nan=False)))
def test_a_value_survives_the_way_out_of_the_sandbox(value: Any) -> None:
    found = program_tests.decode(json.loads(harness._encode(value)))
    assert program_tests.same(found, value)
    assert json.dumps(found) == json.dumps(value)


@given(json_values(EXACT), json_values(EXACT))
def test_values_are_the_same_when_their_json_is(one: Any, other: Any) -> None:
    assert program_tests.same(one, other) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_whatever_is_written_over_a_reply_is_refused_or_plain(reply: Any) -> None:
    try:
        found = program_tests.decode(reply)
    except ValueError:
        return
    assert found is None or isinstance(found, bool | int | float | str | bytes | dict | list | tuple | set | frozenset)
