"""What the conclusion claims, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlvr.report.conclusion import Change, changes, conclude, paired_change, training_changes


def summary(greedy: float, sampled: float, *, count: int = 200) -> dict[str, Any]:
    return {
        "accuracy": greedy,
        "accuracy_ci95": [greedy - 0.05, greedy + 0.05],
        "mean_at_k": sampled,
        "mean_at_k_ci95": [sampled - 0.02, sampled + 0.02],
        "k": 4,
        "count": count,
    }


def train(first: float, last: float) -> dict[str, Any]:
    return {"steps": 10, "first": {"reward/mean": first}, "last": {"reward/mean": last}}


def conclusion_on(
    sampled: Change, greedy: Change, *, reward: tuple[float, float] = (1.0, 2.0), before: str = "sft"
) -> Any:
    summaries = {
        before: summary(greedy.before, sampled.before),
        "grpo": summary(greedy.after, sampled.after),
    }
    return conclude(before, summaries, {"mean_at_k": sampled, "accuracy": greedy}, train(*reward))


RISE, FALL, UNCLEAR = Change(0.2, 0.5, 0.25, 0.35), Change(0.5, 0.2, -0.35, -0.25), Change(0.5, 0.52, -0.01, 0.05)


def test_rise_names_both_values_intervals_and_difference() -> None:
    conclusion = conclusion_on(RISE, RISE)
    assert conclusion.kind == "rise"
    assert conclusion.sentences == (
        "GRPO raised mean@4 on 200 held-out problems from 20.0% [18.0, 22.0] (after the pre-finetune) to 50.0% "
        "[48.0, 52.0]; the 95% interval of the paired difference, +30.0 points [+25.0, +35.0], excludes 0.",
        "Greedy accuracy rose from 20.0% [15.0, 25.0] to 50.0% [45.0, 55.0], +30.0 points [+25.0, +35.0].",
    )


def test_fall_without_more_reward_is_no_collapse() -> None:
    conclusion = conclusion_on(FALL, FALL, reward=(2.0, 1.0))
    assert conclusion.kind == "fall"
    assert conclusion.sentences[0].startswith("GRPO lowered mean@4")
    assert "Greedy accuracy fell from 50.0%" in conclusion.sentences[1]
    assert len(conclusion.sentences) == 2


def test_fall_with_more_reward_is_a_collapse() -> None:
    conclusion = conclusion_on(FALL, UNCLEAR, reward=(1.0, 2.5))
    assert conclusion.kind == "collapse"
    assert "the mean training reward rose from 1.00 to 2.50: the policy collapsed" in conclusion.sentences[2]


def test_more_reward_with_more_accuracy_is_no_collapse() -> None:
    assert conclusion_on(RISE, UNCLEAR, reward=(1.0, 2.5)).kind == "rise"


def test_an_interval_that_includes_0_is_no_evidence() -> None:
    conclusion = conclusion_on(UNCLEAR, UNCLEAR, before="base")
    assert conclusion.kind == "unclear"
    assert "moved mean@4" in conclusion.sentences[0]
    assert "(the base model)" in conclusion.sentences[0]
    assert "includes 0: no evidence of a change either way" in conclusion.sentences[0]
    assert "did not clearly change: it went from" in conclusion.sentences[1]
    assert conclusion.sentences[1].endswith("[-1.0, +5.0], which includes 0.")


def test_an_interval_that_ends_at_0_includes_it() -> None:
    assert Change(0.0, 0.0, 0.0, 0.0).kind == "unclear"
    assert Change(0.1, 0.2, 0.0, 0.2).kind == "unclear"


def test_no_step_and_few_problems_are_said() -> None:
    summaries = {"base": summary(0.5, 0.5, count=8), "grpo": summary(0.5, 0.5, count=8)}
    same = Change(0.5, 0.5, 0.0, 0.0)
    nothing = {"steps": 0, "first": None, "last": None}
    conclusion = conclude("base", summaries, {"mean_at_k": same, "accuracy": same}, nothing)
    assert conclusion.kind == "unclear"
    assert "No GRPO step was taken" in conclusion.sentences[2]
    assert "only 8 problems" in conclusion.sentences[3]


def test_pairing_sees_a_change_that_two_separate_intervals_would_hide() -> None:
    hardness = np.random.default_rng(0).random(100)
    change = paired_change(hardness, hardness + 0.05)
    assert change.kind == "rise"
    assert change.low < 0.05 < change.high
    assert change.difference == pytest.approx(0.05)


def test_interval_of_the_difference_matches_the_normal_one() -> None:
    difference = np.random.default_rng(1).normal(0.1, 0.5, 400)
    change = paired_change(np.zeros(400), difference)
    half = 1.96 * difference.std() / 20
    assert change.low == pytest.approx(difference.mean() - half, abs=0.003)
    assert change.high == pytest.approx(difference.mean() + half, abs=0.003)


def test_a_few_problems_that_all_gain_show_no_change() -> None:
    assert paired_change(np.full(5, 0.5), np.full(5, 0.75)).kind == "unclear"


def test_changes_reads_greedy_and_sampled_answers() -> None:
    before = pd.DataFrame({"correct": [True, False], "num_correct": [1, 0], "num_samples": [4, 4]})
    after = pd.DataFrame({"correct": [True, True], "num_correct": [3, 2], "num_samples": [4, 4]})
    found = changes(before, after)
    assert (found["accuracy"].before, found["accuracy"].after) == (0.5, 1.0)
    assert (found["mean_at_k"].before, found["mean_at_k"].after) == (0.125, 0.625)
    assert found["mean_at_k"].low < 0.0 < 0.5 < found["mean_at_k"].high  # both problems rose by two of four


def test_training_changes_compare_the_outer_quarters() -> None:
    log = pd.DataFrame({"rises": [0.0, 1.0, *[50.0] * 6, 4.0, 5.0, 6.0], "flat": [1.0, 2.0] * 5 + [1.0], "none": None})
    found = training_changes(log, {"up": "rises", "same": "flat", "nothing": "none"}, resamples=2000, seed=0)
    assert set(found) == {"up", "same"}
    assert (found["up"].before, found["up"].after, found["up"].kind) == (0.5, 5.5, "rise")
    assert 4.0 <= found["up"].low < 5.0 < found["up"].high <= 6.0
    assert found["same"].kind == "unclear"


@pytest.mark.parametrize("steps", [0, 3, 7])
def test_training_changes_need_two_steps_a_quarter(steps: int) -> None:
    assert training_changes(pd.DataFrame({"x": [1.0] * steps}), {"x": "x"}, resamples=10, seed=0) == {}
