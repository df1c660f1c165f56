"""Rewards for programs, from the results of the verifier `python`: compiles, runs, share of tests passed.

CodeRL (arXiv 2207.01780, section 3.2) grades a program by compile error, runtime error, failed test and passed;
Open-R1's code reward is the share of tests passed. All return None if the verdict counts no tests, NaN if scoring
failed, and 0 if the answer is missing or never reached its tests.
"""

from __future__ import annotations

import math

from rlvr.rewards.sample import Sample


def code_compiles(sample: Sample, *, points: float) -> float | None:
    """`points` for a program that compiles, else 0."""
    return _times(points, sample, "compiles")


def code_runs(sample: Sample, *, points: float) -> float | None:
    """`points` for a program that no test ends with an exception, a crash or a limit, else 0."""
    return _times(points, sample, "runs")


def tests_passed(sample: Sample, *, share_points: float, all_points: float) -> float | None:
    """share_points · passed / total, plus `all_points` if all tests pass."""
    share = _times(1.0, sample, "tests_passed", over="tests_total")
    return share if share is None else share_points * share + (all_points if share == 1.0 else 0.0)


def _times(points: float, sample: Sample, detail: str, *, over: str | None = None) -> float | None:
    """`points` times a detail of the verdict. An answer that failed before its tests has no details."""
    verdict = sample.verdict
    if verdict.is_fault:
        return math.nan
    if detail not in verdict.details:
        return None if verdict.cause is None else 0.0
    return points * verdict.details[detail] / (verdict.details[over] if over else 1)
