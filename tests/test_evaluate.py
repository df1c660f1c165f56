"""Evaluation against published values, brute force and numbers worked out by hand."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.chat import TAGS, render_target
from rlvr.evaluate import bootstrap, bootstrap_difference, evaluation_table, pass_at, powers_of_two, summary, wilson
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


class TestBootstrap:
    VALUES = np.array([0.0] * 30 + [0.5] * 20 + [1.0] * 50)

    def test_the_seed_alone_decides(self) -> None:
        first = bootstrap(self.VALUES, resamples=200, seed=3)
        assert bootstrap(self.VALUES, resamples=200, seed=3) == first
        assert bootstrap(self.VALUES, resamples=200, seed=4) != first

    def test_it_is_near_the_normal_interval(self) -> None:
        """Mean 0.6, standard error 0.436/10: 0.6 ± 0.0854."""
        low, high = bootstrap(self.VALUES, resamples=4000, seed=0)
        error = 1.96 * self.VALUES.std() / 10
        assert (low, high) == pytest.approx((0.6 - error, 0.6 + error), abs=0.01)

    def test_equal_values_have_no_width(self) -> None:
        assert bootstrap(np.full(7, 0.25), resamples=50, seed=0) == (0.25, 0.25)


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
    return evaluation_table(greedy, sampled, TAGS_USED, verify)


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
    found = summary(table, resamples=100, seed=1)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["accuracy_lenient"] == pytest.approx(2 / 3)
    assert found["accuracy_ci95"] == list(wilson(1, 3))
    assert found["mean_at_k"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["mean_at_k_ci95"] == list(bootstrap(np.array([0.5, 1, 0]), resamples=100, seed=1))
    assert found["pass_at_k"] == pytest.approx(2 / 3)
    assert found["pass_at"] == {"1": pytest.approx(0.5), "2": pytest.approx(2 / 3)}
    assert found["format_rate"] == pytest.approx(1 / 3)
    assert found["truncated"] == pytest.approx(1 / 3)
    assert (found["k"], found["count"]) == (2, 3)
    assert found["mean_tokens"] == pytest.approx(table["num_tokens"].mean())


def test_the_table_survives_parquet(table: pd.DataFrame, tmp_path: object) -> None:
    table.to_parquet(f"{tmp_path}/table.parquet")
    again = pd.read_parquet(f"{tmp_path}/table.parquet")
    assert summary(again, resamples=50, seed=0) == summary(table, resamples=50, seed=0)
