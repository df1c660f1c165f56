"""Evaluation against published values, brute force and numbers worked out by hand."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.chat import TAGS, render_target
from rlvr.evaluate import (
    answers_table,
    bootstrap_difference,
    change_interval,
    judged,
    pass_at,
    powers_of_two,
    share_interval,
    summary,
    wilson,
)
from rlvr.tasks.arithmetic import problem
from rlvr.types import Completion, Group, Prompt
from rlvr.verifiers.verify import Verify

TAGS_USED = TAGS["working_out"]


@pytest.mark.parametrize(
    "successes, count, low, high",
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes, count) == pytest.approx((low, high), abs=5e-5)


def test_bootstrap_difference_covers_normal_theory() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(0.0, 1.0, 400), rng.normal(0.5, 2.0, 100)
    low, high = bootstrap_difference(before, after, resamples=4000, seed=0)
    half = 1.96 * np.sqrt(before.var() / 400 + after.var() / 100)
    centre = after.mean() - before.mean()
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=0.1 * half)
    assert bootstrap_difference(np.ones(3), np.ones(5) * 2, resamples=10, seed=0) == (1.0, 1.0)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case: tuple[int, int]) -> None:
    successes, count = case
    low, high = wilson(successes, count)
    assert 0.0 <= low <= successes / count + 1e-15 and successes / count <= high + 1e-15 <= 1.0 + 1e-15
    assert wilson(count - successes, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_draws_of_k_that_hold_a_right_one(samples: int) -> None:
    for right in range(samples + 1):
        verdicts = [i < right for i in range(samples)]
        for k in range(1, samples + 1):
            draws = [any(draw) for draw in combinations(verdicts, k)]
            assert len(draws) == comb(samples, k)
            assert pass_at(np.array([right]), samples, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_is_a_mean_over_problems() -> None:
    assert pass_at(np.array([0, 1, 4]), 4, 1) == pytest.approx((0 + 1 / 4 + 1) / 3)
    assert pass_at(np.array([0, 1, 4]), 4, 4) == pytest.approx(2 / 3)


def test_powers_of_two() -> None:
    assert [powers_of_two(n) for n in (1, 2, 3, 8, 9)] == [[1], [1, 2], [1, 2], [1, 2, 4, 8], [1, 2, 4, 8]]


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_with_one_sample_a_problem_it_is_the_interval_of_agresti_and_coull(case: tuple[int, int]) -> None:
    right, count = case
    z2 = 1.959963984540054**2
    p = (right + z2 / 2) / (count + z2)
    half = np.sqrt(z2 * p * (1 - p) / (count + z2))
    found = share_interval(np.array([1.0] * right + [0.0] * (count - right)))
    assert found == pytest.approx((max(0.0, p - half), min(1.0, p + half)), abs=1e-12)


@given(st.lists(st.sampled_from([i / 8 for i in range(9)]), min_size=1, max_size=60))
def test_the_intervals_hold_the_mean_have_a_width_and_mirror(shares: list[float]) -> None:
    share_N = np.array(shares)
    low, high = share_interval(share_N)
    assert 0.0 <= low <= share_N.mean() + 1e-12 and share_N.mean() <= high + 1e-12 <= 1.0 + 1e-12
    assert high - low > 1 / (len(shares) + 4)
    assert share_interval(1 - share_N) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    low, high = change_interval(share_N)
    assert low < share_N.mean() < high
    assert change_interval(-share_N) == pytest.approx((-high, -low), abs=1e-12)


def test_nothing_and_everything_right_are_no_certainty() -> None:
    """16 problems: about as wide as Wilson's [0, 0.19]."""
    assert share_interval(np.zeros(16)) == pytest.approx((0.0, 0.227), abs=1e-3)
    assert share_interval(np.ones(16)) == pytest.approx((0.773, 1.0), abs=1e-3)


SPREADS = (None, 1.0, 0.2)  # how alike the problems are: all of the same difficulty, or of beta-distributed ones


def drawn(rng: np.random.Generator, p: float, spread: float | None, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    return np.full(size, p) if spread is None else rng.beta(p * spread, (1 - p) * spread, size)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("p", [0.01, 0.02, 0.5, 0.95])
@pytest.mark.parametrize("count", [16, 100])
def test_the_interval_of_mean_at_k_covers(count: int, p: float, spread: float | None) -> None:
    """Of 2,000 evaluations with eight samples a problem, 93 % or more hold the truth."""
    rng = np.random.default_rng(0)
    share_RN = rng.binomial(8, drawn(rng, p, spread, (2000, count))) / 8
    intervals = np.array([share_interval(share_N) for share_N in share_RN])
    assert np.mean((intervals[:, 0] <= p) & (p <= intervals[:, 1])) >= 0.93


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("p", "gain"), [(0.1, 0.0), (0.5, 0.25), (0.9, 0.5), (0.02, 0.1)])
@pytest.mark.parametrize("count", [5, 100])
def test_the_interval_of_the_paired_change_covers(count: int, p: float, gain: float, spread: float | None) -> None:
    """GRPO closes the share `gain` of what is missing on each problem."""
    rng = np.random.default_rng(0)
    before_RN = drawn(rng, p, spread, (2000, count))
    after_RN = before_RN + gain * (1 - before_RN)
    change_RN = (rng.binomial(8, after_RN) - rng.binomial(8, before_RN)) / 8
    intervals = np.array([change_interval(change_N) for change_N in change_RN])
    truth = gain * (1 - p)
    assert np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])) >= 0.93


def group(a: int, b: int, texts: list[str], *, level: int = 2, truncated: bool = False) -> Group:
    completions = (
        Completion(torch.arange(len(text) + 1), torch.zeros(len(text) + 1), text, truncated) for text in texts
    )
    return Group(Prompt(problem(a, b, level), (1,)), tuple(completions))


@pytest.fixture
def table(verify: Verify) -> pd.DataFrame:
    right = render_target(problem(47, 38, 2), TAGS_USED)
    wrong = right.replace(">85<", ">86<")
    other = render_target(problem(20, 60, 2), TAGS_USED)
    greedy = [group(47, 38, [right]), group(20, 60, ["it is 80"]), group(1, 2, ["4 or 5"], level=1, truncated=True)]
    sampled = [group(47, 38, [right, wrong]), group(20, 60, [other, other]), group(1, 2, ["3", ""], level=1)]
    problems = [group.prompt.problem for group in greedy]
    return judged(answers_table(greedy, sampled), problems, TAGS_USED, verify)


def test_the_table_judges_greedy_answers_strictly_and_leniently(table: pd.DataFrame) -> None:
    assert table["id"].tolist() == ["47+38", "20+60", "1+2"]
    assert table["level"].tolist() == [2, 2, 1]
    assert table["correct"].tolist() == [True, False, False]
    assert table["correct_lenient"].tolist() == [True, True, False]
    assert table["has_format"].tolist() == [True, False, False]
    assert table["is_truncated"].tolist() == [False, False, True]
    assert table["num_tokens"].tolist() == [len(text) + 1 for text in table["text"]]


def test_the_table_counts_right_samples(table: pd.DataFrame) -> None:
    assert table["num_samples"].tolist() == [2, 2, 2]
    assert table["num_correct"].tolist() == [1, 2, 0]
    assert table["sample_correct"].tolist() == [[True, False], [True, True], [False, False]]
    assert table["sample_num_tokens"].tolist()[2] == [2, 1]


def test_the_summary(table: pd.DataFrame) -> None:
    found = summary(table)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["accuracy_lenient"] == pytest.approx(2 / 3)
    assert found["accuracy_ci95"] == list(wilson(1, 3))
    assert found["mean_at_k"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["mean_at_k_ci95"] == list(share_interval(np.array([0.5, 1, 0])))
    assert found["pass_at_k"] == pytest.approx(2 / 3)
    assert found["pass_at"] == {"1": pytest.approx(0.5), "2": pytest.approx(2 / 3)}
    assert found["format_rate"] == pytest.approx(1 / 3)
    assert found["truncated"] == pytest.approx(1 / 3)
    assert (found["k"], found["count"]) == (2, 3)
    assert found["mean_tokens"] == pytest.approx(table["num_tokens"].mean())


def test_the_table_survives_parquet(table: pd.DataFrame, tmp_path: object) -> None:
    table.to_parquet(f"{tmp_path}/table.parquet")
    again = pd.read_parquet(f"{tmp_path}/table.parquet")
    assert summary(again) == summary(table)
