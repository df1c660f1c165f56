"""The tables of the report: learning curves, before and after, correlations, time and memory, levels, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rlvr.report.conclusion import Change

TRAINING_COLUMNS = ["quantity", "first_quarter", "last_quarter", "change", "change_low", "change_high"]


def curves(log: pd.DataFrame) -> pd.DataFrame:
    """One row per step, every logged quantity; "/" in names becomes "_" for `dvc plots`."""
    return log.rename(columns=lambda name: str(name).replace("/", "_"))


def comparison(summaries: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per model: shares with the ends of their 95 % intervals, tokens, number of problems."""
    rows = []
    for model, summary in summaries.items():
        row: dict[str, Any] = {"model": model, "count": summary["count"], "k": summary["k"]}
        for name in ("accuracy", "mean_at_k"):
            low, high = summary[f"{name}_ci95"]
            row |= {name: summary[name], f"{name}_low": low, f"{name}_high": high}
        row["accuracy_lenient"] = summary["accuracy_lenient"]
        row |= {f"pass_at_{k}": value for k, value in pass_at(summary).items()}
        rows.append(row | {name: summary[name] for name in ("format_rate", "mean_tokens", "truncated")})
    return pd.DataFrame(rows)


def pass_at(summary: Mapping[str, Any]) -> dict[int, float]:
    """pass@k by k, in rising order (JSON sorts its keys as text)."""
    return {k: summary["pass_at"][str(k)] for k in sorted(map(int, summary["pass_at"]))}


def correlations(completions: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """Correlation of each reward with being right, over logged completions; `reward` is the weighted total.

    `correlation` is point-biserial, which is Pearson's r with one side 0 or 1. `within_groups` is the same after
    subtracting the mean of each group (one problem in one step) from both sides: the part that GRPO's advantages see.
    NaN where one side is constant. Rows without a number for a reward are left out of its statistics.
    """
    columns = {"reward": "reward"} | {f"reward/{name}": name for name in weights}
    rows = []
    for column, name in columns.items():
        known = completions[completions[column].notna()] if column in completions else completions.iloc[:0]
        points, correct = known.get(column, known["reward"]).astype(float), known["correct"].astype(float)
        group = [known["step"], known["problem_id"]]
        rows.append(
            {
                "reward": "total" if column == "reward" else name,
                "weight": weights.get(name, np.nan),
                "n": len(known),
                "correlation": correlation(points, correct),
                "within_groups": correlation(
                    points - points.groupby(group).transform("mean"), correct - correct.groupby(group).transform("mean")
                ),
                "mean_when_right": float(points[correct == 1].mean()),
                "mean_when_wrong": float(points[correct == 0].mean()),
            }
        )
    return pd.DataFrame(rows)


def correlation(x: pd.Series[float], y: pd.Series[float]) -> float:
    """Pearson's r; NaN where one side is constant up to rounding."""
    if len(x) < 2 or any(np.ptp(side) <= 1e-9 * max(1.0, np.abs(side).max()) for side in (x, y)):
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def phases(sft: Mapping[str, Any], train: Mapping[str, Any], memory: Mapping[str, Any]) -> pd.DataFrame:
    """One row per phase: `seconds` over the whole run, `share` of all measured seconds, `peak_bytes` where measured."""
    seconds = ({"pre-finetune": sft["seconds"]} if sft["enabled"] else {}) | dict(train["seconds"])
    table = pd.DataFrame({"phase": list(seconds), "seconds": [float(value) for value in seconds.values()]})
    total = table["seconds"].sum()
    table["share"] = table["seconds"] / total if total else np.nan
    table["peak_bytes"] = [memory["peak_bytes"].get(phase) for phase in seconds]
    return table


def training(trained: Mapping[str, Change]) -> pd.DataFrame:
    """One row per logged quantity: its mean over the first and the last quarter of the steps, and the change."""
    rows = [
        {
            "quantity": name,
            "first_quarter": change.before,
            "last_quarter": change.after,
            "change": change.difference,
            "change_low": change.low,
            "change_high": change.high,
        }
        for name, change in trained.items()
    ]
    return pd.DataFrame(rows, columns=TRAINING_COLUMNS)


def by_level(evaluations: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows level, model: number of problems, greedy accuracy, mean@k."""
    rows = [
        {
            "level": level,
            "model": model,
            "count": len(part),
            "accuracy": float(part["correct"].mean()),
            "mean_at_k": float((part["num_correct"] / part["num_samples"]).mean()),
        }
        for model, table in evaluations.items()
        for level, part in table.groupby("level")
    ]
    return pd.DataFrame(rows).sort_values("level", kind="stable", ignore_index=True)


def outcomes(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, list[int]]:
    """Row numbers of the problems, by the change of their greedy answer."""
    was, now = before["correct"].to_numpy(bool), after["correct"].to_numpy(bool)
    masks = {
        "became right": ~was & now,
        "became wrong": was & ~now,
        "still wrong": ~was & ~now,
        "still right": was & now,
    }
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def choose_examples(outcomes: Mapping[str, Sequence[int]], count: int) -> list[int]:
    """Row numbers of at most `count` problems worth reading, in the tables' order within each outcome.

    Problems that became right come first. One place at the end is reserved for a problem that is still wrong and one
    for a problem that became wrong, if any. Free places go to the other problems.
    """
    fixed, broken, wrong, right = (
        outcomes[name] for name in ("became right", "became wrong", "still wrong", "still right")
    )
    last = [*wrong[:1], *broken[:1]][: max(0, count - 1) if fixed else count]
    others = [row for row in (*fixed, *wrong, *broken, *right) if row not in last]
    return [*others[: count - len(last)], *last]
