"""The tables against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from rlvr.report.figures import running_mean, window_of
from rlvr.report.tables import by_level, choose_examples, comparison, correlations, curves, outcomes, phases
from rlvr.report.text import duration, number, percent, size


def completions(**columns: list[Any]) -> pd.DataFrame:
    count = len(columns["correct"])
    return pd.DataFrame({"step": [0] * count, "problem_id": ["a"] * count, "reward": [0.0] * count} | columns)


def row(table: pd.DataFrame, reward: str) -> pd.Series[Any]:
    found = table.set_index("reward").loc[reward]
    assert isinstance(found, pd.Series)
    return found


def test_correlation_is_point_biserial() -> None:
    # right: 4, 2 (mean 3); wrong: 1, 1 (mean 1); sd over all four √1.5; r = (3 − 1)/√1.5 · √(½·½) = √(2/3)
    logged = completions(correct=[True, True, False, False], **{"reward/answer": [4.0, 2.0, 1.0, 1.0]})
    found = row(correlations(logged, {"answer": 2.0}), "answer")
    assert found["correlation"] == pytest.approx(math.sqrt(2 / 3))
    assert found["within_groups"] == pytest.approx(math.sqrt(2 / 3))  # there is one group
    assert (found["weight"], found["n"], found["mean_when_right"], found["mean_when_wrong"]) == (2.0, 4, 3.0, 1.0)


def test_correlation_within_groups_leaves_out_what_differs_between_them() -> None:
    # the easy problem pays more for everything; inside each group the reward is 1 lower when right
    logged = completions(
        correct=[True, True, True, False, True, False, False, False],
        problem_id=["easy"] * 4 + ["hard"] * 4,
        **{"reward/bonus": [10.0, 10.0, 10.0, 11.0, 0.0, 1.0, 1.0, 1.0]},
    )
    found = row(correlations(logged, {"bonus": 1.0}), "bonus")
    assert found["correlation"] > 0.4
    assert found["within_groups"] == pytest.approx(-1.0)


def test_a_constant_side_has_no_correlation() -> None:
    logged = completions(correct=[True, False, True], **{"reward/same": [0.1, 0.1, 0.1]})
    assert math.isnan(row(correlations(logged, {"same": 1.0}), "same")["correlation"])
    logged = completions(correct=[True, True, True], **{"reward/points": [1.0, 2.0, 3.0]})
    assert math.isnan(row(correlations(logged, {"points": 1.0}), "points")["correlation"])


def test_rows_without_a_number_are_left_out() -> None:
    logged = completions(correct=[True, False, False], **{"reward/judge": [1.0, 0.0, math.nan]})
    found = row(correlations(logged, {"judge": 1.0}), "judge")
    assert (found["n"], found["correlation"]) == (2, pytest.approx(1.0))


def test_total_reward_is_there_and_no_completions_are_no_crash() -> None:
    logged = completions(correct=[True, False], reward=[3.0, 1.0], **{"reward/a": [1.0, 0.0]})
    assert row(correlations(logged, {"a": 1.0}), "total")["mean_when_right"] == 3.0
    empty = pd.DataFrame(columns=["step", "problem_id", "correct", "reward"])
    assert correlations(empty, {"a": 1.0})["n"].tolist() == [0, 0]


def test_curves_have_names_without_slashes() -> None:
    assert list(curves(pd.DataFrame({"step": [0], "reward/a/mean": [1.0]}))) == ["step", "reward_a_mean"]


def test_comparison_orders_pass_at_by_number() -> None:
    summary = {
        "count": 5, "k": 16, "accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "mean_at_k": 0.3,
        "mean_at_k_ci95": [0.2, 0.4], "accuracy_lenient": 0.5, "pass_at": {"1": 0.3, "16": 0.9, "2": 0.4},
        "format_rate": 1.0, "mean_tokens": 9.0, "truncated": 0.0,
    }  # fmt: skip
    table = comparison({"base": summary, "grpo": summary})
    assert [name for name in table.columns if name.startswith("pass")] == ["pass_at_1", "pass_at_2", "pass_at_16"]
    assert table[["accuracy_low", "accuracy_high"]].iloc[0].tolist() == [0.4, 0.6]
    assert table["model"].tolist() == ["base", "grpo"]


def test_phases_share_all_measured_time() -> None:
    train = {"seconds": {"rollout": 6.0, "update": 2.0}}
    memory = {"kind": "device memory allocated", "peak_bytes": {"rollout": 100, "update": 300}}
    table = phases({"enabled": True, "seconds": 2.0}, train, memory)
    assert table["phase"].tolist() == ["pre-finetune", "rollout", "update"]
    assert table["share"].tolist() == [0.2, 0.6, 0.2]
    assert table["peak_bytes"].tolist()[1:] == [100, 300]
    nothing = {"kind": "device memory allocated", "peak_bytes": {}}
    assert phases({"enabled": False}, {"seconds": {"rollout": 0}}, nothing)["share"].isna().all()


def judged(correct: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"correct": correct, "level": [1, 2] * (len(correct) // 2), "num_correct": 1, "num_samples": 2})


def test_examples_are_those_that_changed_and_one_that_did_not_help() -> None:
    before = judged([True, False, False, False, False, True])
    after = judged([True, True, False, True, True, False])
    kinds = outcomes(before, after)
    assert kinds == {"became right": [1, 3, 4], "became wrong": [5], "still wrong": [2], "still right": [0]}
    assert choose_examples(kinds, 4) == [1, 3, 2, 5]
    assert choose_examples(kinds, 2) == [1, 2]
    assert choose_examples(kinds, 1) == [1]
    assert choose_examples(kinds, 0) == []
    assert choose_examples(kinds, 99) == [1, 3, 4, 0, 2, 5]


def test_examples_without_any_that_became_right() -> None:
    kinds = outcomes(judged([False, False]), judged([False, False]))
    assert choose_examples(kinds, 1) == [0]
    assert choose_examples(kinds, 5) == [1, 0]


def test_by_level_has_a_row_per_level_and_model() -> None:
    table = by_level({"base": judged([False, False]), "grpo": judged([True, False])})
    assert table[["level", "model", "accuracy"]].to_numpy().tolist() == [
        [1, "base", 0.0], [1, "grpo", 1.0], [2, "base", 0.0], [2, "grpo", 0.0],
    ]  # fmt: skip


def test_running_mean_is_the_values_themselves_in_a_short_run() -> None:
    short = pd.Series([1.0, 5.0])
    assert running_mean(short).tolist() == [1.0, 5.0]
    long = pd.Series([float(i) for i in range(60)])
    assert window_of(60) == 3
    assert running_mean(long).tolist()[1:-1] == long.tolist()[1:-1]  # the mean of three neighbours on a line
    assert running_mean(long).iloc[0] == 0.5


def test_numbers_in_words() -> None:
    assert percent(0.2046) == "20.5%"
    assert (number(math.nan, 2), number(None, 2), number(1.005, 1)) == ("–", "–", "1.0")
    assert (duration(7.94), duration(119.7), duration(185), duration(3720)) == (
        "7.9 s",
        "119.7 s",
        "3 min 05 s",
        "1 h 02 min",
    )
    assert (size(3 * 2**29), size(5 * 2**20), size(math.nan)) == ("1.50 GiB", "5 MiB", "–")
