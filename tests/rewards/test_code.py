"""Points for programs, from verdicts of the verifier itself and from verdicts that have no tests."""

from __future__ import annotations

import math

import pytest

from rlvr.chat import TAGS, read
from rlvr.rewards.functions import code
from rlvr.rewards.sample import Sample
from rlvr.types import Answered, Problem
from rlvr.verifiers.verdict import GOLD, MISSING, NOT_APPLICABLE, RIGHT, TIMEOUT, WRONG, Verdict, fault, wrong

PROBLEM = Problem("0", "Double the number.", "[]", "", 1)


def sample(verdict: Verdict) -> Sample:
    return Sample(Answered("", 0, False), PROBLEM, TAGS["think"], read("", TAGS["think"]), verdict)


def points(verdict: Verdict) -> tuple[float | None, float | None, float | None]:
    given = sample(verdict)
    return (
        code.code_compiles(given, points=0.5),
        code.code_runs(given, points=0.25),
        code.tests_passed(given, share_points=2.0, all_points=1.0),
    )


def with_details(outcome: str, compiles: int, runs: int, passed: int, total: int) -> Verdict:
    details = {"compiles": compiles, "runs": runs, "tests_passed": passed, "tests_total": total}
    return Verdict(outcome, details=details)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (with_details("right", 1, 1, 4, 4), (0.5, 0.25, 3.0)),
        (with_details("wrong", 1, 1, 3, 4), (0.5, 0.25, 1.5)),
        (with_details("wrong", 1, 0, 1, 4), (0.5, 0.0, 0.5)),
        (with_details("wrong", 1, 0, 0, 4), (0.5, 0.0, 0.0)),
        (with_details("wrong", 0, 0, 0, 4), (0.0, 0.0, 0.0)),
        (wrong(MISSING), (0.0, 0.0, 0.0)),
        (wrong(TIMEOUT), (0.0, 0.0, 0.0)),
    ],
)
def test_points(verdict: Verdict, expected: tuple[float, float, float]) -> None:
    assert points(verdict) == expected


@pytest.mark.parametrize("verdict", [RIGHT, WRONG, NOT_APPLICABLE])
def test_a_verdict_without_tests_has_no_points(verdict: Verdict) -> None:
    assert points(verdict) == (None, None, None)


def test_our_own_fault_is_no_number() -> None:
    assert all(math.isnan(value) for value in points(fault(GOLD, "no tests")) if value is not None)
    assert None not in points(fault(GOLD, "no tests"))
