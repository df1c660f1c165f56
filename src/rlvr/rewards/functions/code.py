"""Rewards for programs, from what the verifier `python` found: compiles, runs, share of tests passed.

CodeRL (arXiv 2207.01780, section 3.2) grades a program by compile error, runtime error, failed test and passed;
Open-R1's code reward is the share of tests passed. All give None where the verdict counts no tests, NaN where the
failure is ours, and 0 for an answer that is missing or that never came as far as its tests.
"""

from __future__ import annotations

import math

from rlvr.rewards.sample import Sample


def code_compiles(sample: Sample, *, points: float) -> float | None:
    """`points` for a program that compiles, else 0."""
    return _times(points, sample, "compiles")


def code_runs(sample: Sample, *, points: float) -> float | None:
    """`points` for a program that ends no test in an exception, a crash or at a limit, else 0."""
    return _times(points, sample, "runs")


def tests_passed(sample: Sample, *, share_points: float, all_points: float) -> float | None:
    """share_points · passed / total, and `all_points` more when all tests pass."""
    share = _times(1.0, sample, "tests_passed", over="tests_total")
    return share if share is None else share_points * share + (all_points if share == 1.0 else 0.0)


def _times(points: float, sample: Sample, detail: str, *, over: str | None = None) -> float | None:
    """`points` times a detail of the verdict, which an answer that failed before its tests does not have."""
    verdict = sample.verdict
    if verdict.is_fault:
        return math.nan
    if detail not in verdict.details:
        return None if verdict.cause is None else 0.0
    return points * verdict.details[detail] / (verdict.details[over] if over else 1)
