"""The result of the run, in plain sentences that the intervals support."""
# N held-out problems

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from rlvr.evaluate import bootstrap_difference, change_interval
from rlvr.report.text import percent, percent_interval, percent_points

Kind = Literal["rise", "fall", "unclear", "collapse"]
FEW_PROBLEMS = 30  # below this, the intervals are rough
STARTS = {"base": "the base model", "sft": "after the pre-finetune"}


@dataclass(frozen=True)
class Change:
    """A mean over problems before and after, and the 95 % interval of the paired difference, as shares."""

    before: float
    after: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def points(self) -> str:
        return percent_points(self.difference, self.low, self.high)

    @property
    def kind(self) -> Kind:
        if self.low > 0:
            return "rise"
        return "fall" if self.high < 0 else "unclear"


@dataclass(frozen=True)
class Conclusion:
    kind: Kind
    sentences: tuple[str, ...]


def paired_change(before_N: np.ndarray[Any, Any], after_N: np.ndarray[Any, Any]) -> Change:
    """Both means, and the interval of mean(after − before) over the problems."""
    low, high = change_interval(after_N - before_N)
    return Change(float(before_N.mean()), float(after_N.mean()), low, high)


def changes(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Change]:
    """The changes of `accuracy` (greedy, strict) and `mean_at_k` between two evaluation tables of the same problems."""
    shares = {
        "accuracy": [table["correct"].to_numpy(float) for table in (before, after)],
        "mean_at_k": [(table["num_correct"] / table["num_samples"]).to_numpy(float) for table in (before, after)],
    }
    return {name: paired_change(*pair) for name, pair in shares.items()}


def training_changes(log: pd.DataFrame, names: Mapping[str, str], *, resamples: int, seed: int) -> dict[str, Change]:
    """Means over the first and the last quarter of the steps, for each column of `names` by its title.

    The interval of the difference is a percentile bootstrap that resamples the steps of each quarter, which draw
    different prompts. Steps without a value are left out, and so is a column without two values in each quarter.
    """
    quarter = len(log) // 4
    result: dict[str, Change] = {}
    if quarter < 2:
        return result
    for title, column in names.items():
        values = log[column].astype(float)
        first, last = (part.dropna().to_numpy() for part in (values[:quarter], values[len(log) - quarter :]))
        if min(len(first), len(last)) >= 2:
            low, high = bootstrap_difference(first, last, resamples=resamples, seed=seed)
            result[title] = Change(float(first.mean()), float(last.mean()), low, high)
    return result


def conclude(
    before: str,
    summaries: Mapping[str, Mapping[str, Any]],
    changed: Mapping[str, Change],
    train: Mapping[str, Any],
) -> Conclusion:
    """How the model `grpo` compares with the model `before`; `train` is metrics/train.json."""
    start, end = summaries[before], summaries["grpo"]
    sampled = changed["mean_at_k"]
    sentences = [_sampled_sentence(before, start, end, sampled), _greedy_sentence(start, end, changed["accuracy"])]
    kind = sampled.kind
    if train["steps"] == 0:
        sentences.append("No GRPO step was taken, so the model before and the model after are the same.")
    elif kind == "fall" and train["last"]["reward/mean"] > train["first"]["reward/mean"]:
        kind = "collapse"
        sentences.append(
            f"Meanwhile the mean training reward rose from {train['first']['reward/mean']:.2f} to "
            f"{train['last']['reward/mean']:.2f}: the policy collapsed onto something that the rewards pay for and "
            "that is not the right answer."
        )
    if end["count"] < FEW_PROBLEMS:
        sentences.append(f"With only {end['count']} problems these intervals are themselves rough.")
    return Conclusion(kind, tuple(sentences))


def _sampled_sentence(before: str, start: Mapping[str, Any], end: Mapping[str, Any], change: Change) -> str:
    verb = {"rise": "raised", "fall": "lowered"}.get(change.kind, "moved")
    sure = "excludes 0" if change.kind != "unclear" else "includes 0: no evidence of a change either way"
    return (
        f"GRPO {verb} mean@{end['k']} on {end['count']} held-out problems from "
        f"{_with_interval(start, 'mean_at_k')} ({STARTS[before]}) to {_with_interval(end, 'mean_at_k')}; "
        f"the 95% interval of the paired difference, {change.points}, {sure}."
    )


def _greedy_sentence(start: Mapping[str, Any], end: Mapping[str, Any], change: Change) -> str:
    way = {"rise": "rose", "fall": "fell"}.get(change.kind, "did not clearly change: it went")
    zero = ", which includes 0" if change.kind == "unclear" else ""
    return (
        f"Greedy accuracy {way} from {_with_interval(start, 'accuracy')} to {_with_interval(end, 'accuracy')}, "
        f"{change.points}{zero}."
    )


def _with_interval(summary: Mapping[str, Any], name: str) -> str:
    return f"{percent(summary[name])} {percent_interval(*summary[f'{name}_ci95'])}"
