"""The line and the table that a step leaves, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlvr.loss import LossStats
from rlvr.rewards import Scores
from rlvr.rollout import Rollout
from rlvr.runtime.meter import Meter
from rlvr.training.log import completion_table, largest_counted, peak_bytes, run_summary, step_record
from rlvr.types import Completion, Group, Problem, Prompt
from rlvr.verifiers.verdict import RIGHT, TIMEOUT, WRONG, fault, wrong

NAN = float("nan")
GROUPS = [
    Group(
        Prompt(Problem(f"p{p}", f"question {p}", str(p), "", 1), (1, 2)),
        tuple(Completion(torch.zeros(n, dtype=torch.int64), torch.zeros(n), f"text {n}", n == 8) for n in lengths),
    )
    for p, lengths in enumerate([(2, 4), (8, 6)])
]
SCORES = Scores(
    names=("format_exact", "number"),
    weights=(1.0, 0.5),
    points=[[[3.0, 1.0], [0.0, -1.0]], [[3.0, 0.0], [3.0, 0.0]]],
    verdicts=[[RIGHT, WRONG], [wrong(TIMEOUT), WRONG]],
    messages=(),
)
REWARD_PG = torch.tensor([[3.5, -0.5], [3.0, 3.0]], dtype=torch.float64)
ADVANTAGE_PG = torch.tensor([[0.7, -0.7], [0.0, 0.0]], dtype=torch.float64)
ROLLOUT = Rollout(
    GROUPS,
    SCORES,
    REWARD_PG,
    ADVANTAGE_PG,
    torch.tensor([True, False]),
    num_resampled=1,
    sampled_verdicts=tuple(verdict for verdicts in SCORES.verdicts for verdict in verdicts),
    num_unscorable=0,
)


def statistics(*sums: float, gap: float) -> LossStats:
    """Sums of one micro-batch, in the order of LossStats.NAMES."""
    return LossStats(torch.zeros(0), torch.tensor(sums), torch.tensor(gap))


def record(**changes: Any) -> dict[str, Any]:
    meter = Meter(torch.device("cpu"))
    meter.seconds = {"rollout": 0.5, "score": 0.25, "update": 1.25, "optimizer": 0.5}  # part of update
    meter.peak_bytes = {"rollout": 10, "score": 30, "update": 15, "optimizer": 20}
    of_rollout = ("scores", "reward_PG", "sampled_verdicts", "num_unscorable")
    parts: dict[str, Any] = {name: changes.pop(name) for name in of_rollout if name in changes}
    values: dict[str, Any] = {
        "rollout": replace(ROLLOUT, **parts),
        "keep_P": [True, False],
        "losses": [0.25, -0.75],
        "statistics": [
            statistics(6, 3.0, 1, 0, 0.6, 0.06, 2, 3, 1, gap=0.02),
            statistics(2, 2.0, 0, 1, 0.2, 0.02, 1, 1, 0, gap=0.03),
        ],
        "meter": meter,
    }
    return step_record(7, **(values | changes))


def test_the_line_of_a_step() -> None:
    """Rewards 3.5, -0.5, 3, 3: mean 2.25, squares of the differences 1.5625 + 7.5625 + 2 · 0.5625 = 10.25."""
    assert record() == {
        "step": 7,
        "loss": -0.25,
        "accuracy": 0.25,
        "reward/mean": 2.25,
        "reward/std": pytest.approx(math.sqrt(10.25 / 3)),
        "reward/format_exact/mean": 2.25,
        "reward/format_exact/std": 1.5,
        "reward/number/mean": 0.0,
        "reward/number/std": pytest.approx(math.sqrt(2 / 3)),
        "advantage/zero_std_groups": 1,
        "groups/skipped": 1,
        "groups/resampled": 1,
        "prompt/mean_length": 2.0,
        "completion/mean_length": 5.0,
        "completion/max_length": 8,
        "completion/truncated": 0.25,
        "policy/entropy": pytest.approx(5 / 8),
        "policy/clip_low": pytest.approx(1 / 8),
        "policy/clip_high": pytest.approx(1 / 8),
        "policy/kl": pytest.approx(0.1),
        "sampler/logp_gap_mean": pytest.approx(0.01),
        "sampler/logp_gap_max": pytest.approx(0.03),
        "sampler/dropped_rows": pytest.approx(1 / 4),
        "sampler/dropped_tokens": pytest.approx(3 / 8),
        "verifier/unscorable": 0,
        "verifier/timeout": 1,
        "verifier/memory": 0,
        "verifier/output": 0,
        "verifier/crash": 0,
        "verifier/unparsable": 0,
        "time/rollout": 0.5,
        "time/score": 0.25,
        "time/update": 1.25,
        "tokens/second": 10.0,
        "memory/is_counted": True,
        "memory/rollout_peak_bytes": 10,
        "memory/update_peak_bytes": 20,
    }


def test_the_largest_step_that_was_counted() -> None:
    lines = [{"completion/mean_length": mean, "memory/is_counted": mean < 30} for mean in (20.2, 24.6, 31.0)]
    assert largest_counted(lines) == lines[1]
    assert largest_counted([]) is None


def test_policy_numbers_are_means_over_tokens_not_over_micro_batches() -> None:
    uneven = [statistics(90, 90.0, *[0] * 4, 0, 9, 0, gap=0.0), statistics(10, 0.0, *[0] * 4, 0, 1, 0, gap=0.0)]
    assert record(statistics=uneven)["policy/entropy"] == pytest.approx(0.9)


def test_where_nothing_was_computed_nothing_is_claimed() -> None:
    found = record(statistics=[], keep_P=[False, False])
    assert found["groups/skipped"] == 2
    assert {name for name, value in found.items() if value is None} == {
        "policy/entropy",
        "policy/clip_low",
        "policy/clip_high",
        "policy/kl",
        "sampler/logp_gap_mean",
        "sampler/logp_gap_max",
        "sampler/dropped_rows",
        "sampler/dropped_tokens",
    }


def test_what_could_not_be_scored_is_left_out_of_means_and_deviations() -> None:
    points: list[list[list[float | None]]] = [[[3.0, NAN], [0.0, -1.0]], [[3.0, 0.0], [3.0, 0.5]]]
    scores = Scores(SCORES.names, SCORES.weights, points, SCORES.verdicts, ())
    found = record(scores=scores, reward_PG=torch.tensor([[NAN, -0.5], [3.0, 3.5]], dtype=torch.float64))
    assert found["reward/mean"] == pytest.approx(2.0)
    assert found["reward/std"] == pytest.approx(math.sqrt((2.5**2 + 1 + 1.5**2) / 2))
    assert found["reward/number/mean"] == pytest.approx(-0.5 / 3)
    mean = -0.5 / 3
    assert found["reward/number/std"] == pytest.approx(math.sqrt(((-1 - mean) ** 2 + mean**2 + (0.5 - mean) ** 2) / 2))


def test_where_a_function_does_not_apply_it_has_no_statistics() -> None:
    points: list[list[list[float | None]]] = [[[3.0, None], [0.0, 4.0]], [[NAN, None], [NAN, 1.0]]]
    found = record(scores=Scores(SCORES.names, SCORES.weights, points, SCORES.verdicts, ()))
    assert found["reward/number/mean"] == 2.5
    assert found["reward/number/std"] == pytest.approx(math.sqrt(4.5))
    nothing: list[list[list[float | None]]] = [[[3.0, None], [0.0, None]], [[3.0, NAN], [3.0, None]]]
    found = record(scores=Scores(SCORES.names, SCORES.weights, nothing, SCORES.verdicts, ()))
    assert (found["reward/number/mean"], found["reward/number/std"]) == (None, 0.0)
    assert "NaN" not in json.dumps(found)


def test_accuracy_and_failures_are_of_all_that_was_sampled() -> None:
    """Two groups of the step, and two that were replaced: one all right, one that could not be scored."""
    sampled = (*ROLLOUT.sampled_verdicts, RIGHT, RIGHT, fault("endpoint", "down"), fault("endpoint", "down"))
    found = record(sampled_verdicts=sampled, num_unscorable=2)
    assert found["accuracy"] == pytest.approx((1 + 2) / (4 + 2))
    assert (found["verifier/unscorable"], found["verifier/timeout"]) == (2, 1)


def test_a_line_is_plain_json() -> None:
    assert json.loads(json.dumps(record())) == record()


def test_the_table_has_a_row_for_each_completion() -> None:
    table = completion_table(7, ROLLOUT)
    assert table.to_dict("records")[1] == {
        "step": 7,
        "problem_id": "p0",
        "question": "question 0",
        "answer": "0",
        "text": "text 4",
        "num_tokens": 4,
        "is_truncated": False,
        "correct": False,
        "verdict": "wrong",
        "reward": -0.5,
        "advantage": -0.7,
        "reward/format_exact": 0.0,
        "reward/number": -1.0,
    }
    assert table["verdict"].tolist() == ["right", "wrong", "wrong: timeout", "wrong"]
    assert table["text"].tolist() == ["text 2", "text 4", "text 8", "text 6"]


class TestSummary:
    @staticmethod
    def records(count: int) -> list[dict[str, Any]]:
        return [
            record() | {"accuracy": step / 100, "policy/entropy": 1.0 if step % 2 else None} for step in range(count)
        ]

    def test_first_and_last_tenth(self) -> None:
        found = run_summary(self.records(40))
        assert found["steps"] == 40
        assert found["first"]["accuracy"] == pytest.approx((0 + 1 + 2 + 3) / 400)
        assert found["last"]["accuracy"] == pytest.approx((36 + 37 + 38 + 39) / 400)
        assert found["first"]["policy/entropy"] == 1.0  # of the steps that have one
        assert found["seconds"] == {"rollout": 20.0, "score": 10.0, "update": 50.0}

    def test_short_runs_have_tenths_of_one_step(self) -> None:
        found = run_summary(self.records(3))
        assert (found["first"]["accuracy"], found["last"]["accuracy"]) == (0.0, 0.02)
        assert found["first"]["policy/entropy"] is None

    def test_a_run_of_no_steps(self) -> None:
        found = run_summary([])
        assert found["steps"] == 0
        assert found["first"]["accuracy"] is None
        assert peak_bytes([]) == {"rollout": 0, "update": 0}

    def test_peaks_are_the_largest(self) -> None:
        records = [record() | {"memory/update_peak_bytes": peak} for peak in (5, 9, 7)]
        assert peak_bytes(records) == {"rollout": 10, "update": 9}
