"""The tasks of examples/code.jsonl: each solution passes its own tests, and no other program does."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlvr.verifiers.python import verify
from rlvr.verifiers.verdict import Verdict
from support.sandboxed import need_bubblewrap

LIMITS: dict[str, Any] = {
    "wall_seconds": 20.0,
    "cpu_seconds": 2.0,
    "memory_mib": 256,
    "file_mib": 4,
    "processes": 4,
    "output_kib": 32,
}
FILE = Path(__file__).parents[2] / "examples" / "code.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def _bubblewrap() -> None:
    need_bubblewrap()


def verdicts(programs: list[str]) -> list[Verdict]:
    """One verdict per row of the file, on the program at its place."""
    with ThreadPoolExecutor(2) as pool:
        return list(
            pool.map(
                lambda program, row: verify(program, row["answer"], kind="bubblewrap", **LIMITS),
                programs,
                ROWS,
            )
        )


def test_the_file_is_what_its_preset_reads() -> None:
    assert len(ROWS) >= 120
    assert len({row["question"] for row in ROWS}) == len(ROWS)
    assert {row["level"] for row in ROWS} == {1, 2, 3}
    for row in ROWS:
        assert set(row) == {"question", "answer", "working", "solution", "level"}
        assert 1 <= len(row["solution"].splitlines()) <= 5
        assert row["working"]


def test_every_solution_is_right() -> None:
    found = verdicts([row["solution"] for row in ROWS])
    assert [row["question"] for row, verdict in zip(ROWS, found, strict=True) if not verdict.is_right] == []


@pytest.mark.parametrize("which", ["empty", "constant", "of another task"])
def test_no_wrong_program_is_right(which: str) -> None:
    programs = {
        "empty": ["" for _ in ROWS],
        "constant": [constant(row) for row in ROWS],
        "of another task": [ROWS[place - 1]["solution"] for place in range(len(ROWS))],
    }
    found = verdicts(programs[which])
    assert [row["question"] for row, verdict in zip(ROWS, found, strict=True) if verdict.outcome != "wrong"] == []


def constant(row: dict[str, Any]) -> str:
    """A program of the right form that always gives the result of the first test, unless there is but one."""
    tests = json.loads(row["answer"])
    if "stdin" in tests[0]:
        return f"print({tests[0]['stdout'].removesuffix(chr(10))!r})" if len(tests) > 1 else "print(0)"
    name = row["solution"].removeprefix("def ").partition("(")[0]
    if "call" in tests[0]:
        return f"def {name}(*arguments): return {tests[0]['result']!r}"
    return f"def {name}(*arguments): return {tests[0]['assert'].rpartition(' == ')[2]}"
