"""Hostile completions through the real pool: each ends in time, is wrong, and the next good answer is judged right."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlvr.verifiers import VERIFIERS
from rlvr.verifiers.verdict import CRASH, MEMORY, MISSING, OUTPUT, TIMEOUT, UNPARSABLE, Verdict
from rlvr.verifiers.verify import verdict_of
from rlvr.verifiers.workers.pool import Workers

pytestmark = pytest.mark.deadline

LIMIT_SECONDS = 1.0
SLACK_SECONDS = 1.0
MEMORY_BYTES = 2**30
CAUSES = {None, MISSING, UNPARSABLE, TIMEOUT, MEMORY, OUTPUT, CRASH}

FILE = Path(tempfile.gettempdir()) / "rlvr-hostile-answers"  # what some try to write
SETUP = "CREATE TABLE t (a); INSERT INTO t VALUES (1)"
PLAIN_SQL = json.dumps({"setup": SETUP, "query": "SELECT a FROM t", "ordered": True})
NESTED = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["b"]}
GOOD = {
    "math": ("\\frac{1}{2}", "0.5"),
    "pattern": (r"\d+", "42"),
    "json_schema": (json.dumps(NESTED), '{"b": 1}'),
    "sql": (PLAIN_SQL, "SELECT a + 0 FROM t"),
}
RECURSIVE = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
LIMITED = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) SELECT"
MEGABYTES_10 = 10_000_000

# verifier, gold (None: that of GOOD), answer, by what is tried
HOSTILE: dict[str, tuple[str, str | None, str]] = {
    "tower of powers": ("math", None, "9**9**9**9"),
    "tower in braces": ("math", None, "10^{10^{10}}"),
    "tower in brackets": ("math", None, "(((9)^(9))^(9))^(9)^(9)"),
    "tower by products": ("math", None, "(9^9999)^{9999*9999}"),
    "tower of e": ("math", None, "e^{e^{e^{e^{e^{e}}}}}"),
    "tower of fractions": ("math", None, "7^{7^{\\frac{99999}{2}}}"),
    "factorial of a factorial": ("math", None, "((9!)!)!"),
    "hidden factorials": ("math", None, "((20+1)!+3)!"),
    "huge factorial": ("math", None, "999999999!"),
    "huge exponent": ("math", None, "2^{999999999999}"),
    "huge binomial": ("math", None, "\\binom{999999999}{499999999}"),
    "expansion": ("math", "x", "(x+y+z+1)^{9999}"),
    "endless sum": ("math", None, "\\sum_{n=1}^{10^{9}} \\frac{1}{n^3+n}"),
    "hard integral": ("math", None, "\\int_0^1 \\sin(x^{x^x}) \\log(x+\\cos(x^2)) dx"),
    "hard limit": ("math", None, "\\lim_{x\\to 0} \\frac{\\sin(\\tan(x))-\\tan(\\sin(x))}{x^{77}}"),
    "hard equation": ("math", "x=1", "x^{17}+x^{13}\\sin(x)+e^{x^5}=\\log(x+7)^{11}"),
    "fractions 5000 deep": ("math", None, "\\frac{1}{" * 5000 + "1" + "}" * 5000),
    "roots 5000 deep": ("math", None, "\\sqrt{" * 5000 + "1" + "}" * 5000),
    "brackets 100,000 deep": ("math", None, "(" * 100_000 + "1" + ")" * 100_000),
    "braces": ("math", None, "{" * 15 + "1" + "}" * 15),
    "brackets that do not close": ("math", None, "([{" * 300),
    "boxes in boxes": ("math", None, "\\boxed{" * 250 + "1" + "}" * 250),
    "long sum": ("math", None, "+".join(f"x^{{{i}}}" for i in range(250))),
    "10 MB of digits": ("math", None, "9" * MEGABYTES_10),
    "10 MB of spaces": ("math", None, " " * MEGABYTES_10 + "x"),
    "10 MB of dollars": ("math", None, "$" * MEGABYTES_10),
    "digits over the limit of int": ("math", None, "9" * 1999),
    "lone surrogate in mathematics": ("math", None, "\ud800\udfff\udc00"),
    "null bytes in mathematics": ("math", None, "1\0/2\0"),
    "digits of other scripts": ("math", None, "٣٤٥/०१२"),
    "every number at once": ("math", None, ", ".join(str(i / 2) for i in range(300))),
    "Python": ("math", None, f"__import__('pathlib').Path('{FILE}').touch()"),
    "LaTeX that reads files": ("math", None, "\\input{/etc/passwd}"),
    "backtracking": ("pattern", r"(a+)+$", "a" * 40 + "b"),
    "backtracking by alternatives": ("pattern", r"(?:a|a|aa)*c", "a" * 60),
    "backtracking back to a group": ("pattern", r"(.*)*\1\1\1x", "ab" * 200),
    "10 MB for a pattern": ("pattern", r"(x+x+)+y", "x" * MEGABYTES_10),
    "quadratic 10 MB": ("pattern", r".*?,.*?,.*?;", "," * MEGABYTES_10),
    "surrogates for a pattern": ("pattern", None, "\ud800" * 1000),
    "null bytes for a pattern": ("pattern", None, "42\0"),
    "JSON 100,000 deep": ("json_schema", None, "[" * 100_000 + "]" * 100_000),
    "objects 100,000 deep": ("json_schema", None, '{"a":' * 100_000 + "1" + "}" * 100_000),
    "recursion of the schema": ("json_schema", None, '{"a":' * 200 + '{"b":1}' + "}" * 200),
    "backtracking in a schema": ("json_schema", '{"pattern": "^(a+)+$"}', json.dumps("a" * 40 + "b")),
    "quadratic uniqueness": (
        "json_schema",
        '{"uniqueItems": true}',
        json.dumps([{"a": i} for i in range(20_000)] * 2),
    ),
    "10 MB of JSON": ("json_schema", None, json.dumps(["x" * 99] * 90_000)),
    "10 MB that is no JSON": ("json_schema", None, '{"a' * (MEGABYTES_10 // 3)),
    "integer over the limit of int": ("json_schema", None, "9" * 10_000),
    "remainder of a huge number": ("json_schema", '{"multipleOf": 0.1}', "9" * 4000),
    "NaN": ("json_schema", '{"type": "number"}', "NaN"),
    "key twice": ("json_schema", None, '{"b": 1, "b": 2}'),
    "surrogates for JSON": ("json_schema", None, '{"b": "\ud800"'),
    "endless recursion in SQL": ("sql", None, f"{RECURSIVE} count(*) FROM n"),
    "endless sorting in SQL": ("sql", None, f"{RECURSIVE} i FROM n ORDER BY -i"),
    "endless rows in SQL": ("sql", None, f"{RECURSIVE} randomblob(1000000) FROM n"),
    "memory in SQL": ("sql", None, f"{RECURSIVE} group_concat(hex(randomblob(1000)), i) FROM n"),
    "memory in many rows": ("sql", None, f"{RECURSIVE} DISTINCT hex(randomblob(900000)) FROM n ORDER BY 1"),
    "cross join": (
        "sql",
        None,
        f"{LIMITED} sum(x.i*y.i*z.i) FROM n AS x, n AS y, n AS z",
    ),
    "exponential LIKE": ("sql", None, f"SELECT '{'a' * 9000}' LIKE '{'%a' * 900}b'"),
    "blob of a gigabyte": ("sql", None, "SELECT randomblob(1000000000)"),
    "wide printf": ("sql", None, "SELECT printf('%1000000000d', 1), printf('%.*c', 1000000000, 'x')"),
    "replace that grows": ("sql", None, "SELECT replace(hex(zeroblob(4000000)), '0', hex(zeroblob(4000000)))"),
    "another file": ("sql", None, f"ATTACH '{FILE}' AS other"),
    "schema made writable": ("sql", None, "PRAGMA writable_schema = ON"),
    "extension": ("sql", None, "SELECT load_extension('/lib/x86_64-linux-gnu/libc.so.6')"),
    "tables dropped": ("sql", None, "DROP TABLE t"),
    "two statements": ("sql", None, "SELECT 1; SELECT 2"),
    "SQL 100,000 deep": ("sql", None, "SELECT " + "(" * 100_000 + "1" + ")" * 100_000),
    "deep conditions": ("sql", None, "SELECT " + "NOT " * 100_000 + "1"),
    "10 MB of SQL": ("sql", None, "SELECT '" + "x" * MEGABYTES_10 + "'"),
    "surrogates for SQL": ("sql", None, "SELECT '\ud800'"),
    "null bytes for SQL": ("sql", None, "SELECT 1\0"),
    "nothing for SQL": ("sql", None, ""),
}

Verify = Callable[[str, str, str], Verdict]


@pytest.fixture(scope="module")
def verify() -> Iterator[Verify]:
    with Workers(1, memory_bytes=MEMORY_BYTES) as workers:

        def verify(name: str, gold: str, answer: str) -> Verdict:
            arguments = {"answer": answer, "gold": gold}
            return verdict_of(workers.submit(VERIFIERS[name].target, arguments, seconds=LIMIT_SECONDS).result(60))

        yield verify


@pytest.mark.parametrize("name", HOSTILE)
def test_it_ends_in_time_is_wrong_and_the_next_is_judged(verify: Verify, name: str) -> None:
    verifier, gold, answer = HOSTILE[name]
    good_gold, good_answer = GOOD[verifier]
    assert verify(verifier, good_gold, good_answer).outcome == "right"
    started = time.monotonic()
    found = verify(verifier, good_gold if gold is None else gold, answer)
    assert time.monotonic() - started < LIMIT_SECONDS + SLACK_SECONDS
    assert found.outcome == "wrong" and found.cause in CAUSES
    assert verify(verifier, good_gold, good_answer).outcome == "right"


def test_no_file_was_made() -> None:
    assert not FILE.exists()


def test_there_are_enough() -> None:
    assert len(HOSTILE) >= 60
    assert {verifier for verifier, _, _ in HOSTILE.values()} == set(GOOD)
