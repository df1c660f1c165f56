"""Draw the figures: raw values faint, a running mean on top. Same inputs, same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rlvr.report.text import percent

BLUE, ORANGE, GREEN, GREY = "#2563eb", "#ea580c", "#15803d", "#6b7280"
DOTS_PER_INCH = 160
WINDOWS_PER_RUN = 20  # the running mean covers a twentieth of the run

STYLE = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


def draw_figures(
    log: pd.DataFrame,
    *,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    rewards: Mapping[str, float],
    prompts_per_step: int,
) -> dict[str, bytes]:
    """PNG by name; empty for a log without steps.

    `before` and `after` are summaries of metrics/evaluate.json, `rewards` the weights by name.
    """
    if log.empty:
        return {}
    draw: dict[str, Callable[[], Figure]] = {
        "learning": lambda: learning(log, before, after),
        "rewards": lambda: reward_functions(log, rewards),
        "length": lambda: _curves(
            log, {"completion/mean_length": "mean", "completion/max_length": "longest"}, "completion tokens"
        ),
        "entropy": lambda: _curves(log, {"policy/entropy": ""}, "nats per token"),
        "clip": lambda: _curves(
            log, {"policy/clip_low": "clipped low", "policy/clip_high": "clipped high"}, "share of tokens", share=True
        ),
        "signal": lambda: no_signal(log, prompts_per_step),
        "gradient": lambda: gradient(log),
    }
    return styled(draw)


def styled(draw: Mapping[str, Callable[[], Figure]]) -> dict[str, bytes]:
    """The figures in the report's style, as PNG."""
    with mpl.rc_context():  # independent of a user's matplotlibrc
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        return {name: _png(figure()) for name, figure in draw.items()}


def running_mean(values: pd.Series[float]) -> pd.Series[float]:
    """The mean of the window around each step; the window is shorter at both ends."""
    return values.rolling(window_of(len(values)), center=True, min_periods=1).mean()


def window_of(steps: int) -> int:
    """The number of steps in the window of the running mean."""
    return max(1, steps // WINDOWS_PER_RUN)


def learning(log: pd.DataFrame, before: Mapping[str, Any], after: Mapping[str, Any]) -> Figure:
    """Training accuracy between the held-out marks before and after, and the mean reward. A wide figure."""
    figure = Figure(figsize=(11.0, 3.9), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03))
    left, right = figure.subplots(1, 2)
    _line(left, log, "accuracy", BLUE, "training questions, sampled")
    first, last = float(log["step"].iloc[0]), float(log["step"].iloc[-1])
    margin = 0.035 * max(last - first, 1.0)
    _mark(left, first - margin, before, color=ORANGE, when="before")
    _mark(left, last + margin, after, color=GREEN, when="after")
    left.set(title="Accuracy", ylim=(-0.02, 1.06), xlabel="step")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.legend(loc="lower right" if after["mean_at_k"] > 0.5 else "upper right")
    _line(right, log, "reward/mean", BLUE, "mean of all rewards")
    _tenths(right, log)
    right.set(title="Mean reward", xlabel="step", xlim=left.get_xlim())
    right.margins(y=0.12)
    return figure


def reward_functions(log: pd.DataFrame, rewards: Mapping[str, float]) -> Figure:
    """Points of each reward function before weighting, one panel each."""
    columns = min(2, len(rewards))
    rows = -(-len(rewards) // columns)
    figure = Figure(figsize=(5.5 * columns, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (name, weight) in zip(panels, rewards.items(), strict=False):
        _line(panel, log, f"reward/{name}/mean", BLUE if weight else GREY, "")
        title = name.replace("$", r"\$")  # else it would be read as a formula
        panel.set(title=f"{title}  (weight {weight:g})" if weight else f"{title}  (logged only)", xlabel="step")
    for panel in panels[len(rewards) :]:
        panel.set_visible(False)
    return figure


def pre_finetune(sft_log: pd.DataFrame) -> bytes | None:
    """PNG of format rate and accuracy of sampled dev answers over the pre-finetune; None if the log is empty."""
    if sft_log.empty:
        return None

    def draw() -> Figure:
        figure, axes = _panel()
        for name, color, label in (("format_rate", ORANGE, "right format"), ("accuracy", BLUE, "right answer")):
            axes.plot(sft_log["steps"], sft_log[name].astype(float), color=color, label=label, marker="o", markersize=4)
        axes.set(ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        axes.legend()
        return figure

    return styled({"pre_finetune": draw})["pre_finetune"]


def no_signal(log: pd.DataFrame, prompts_per_step: int) -> Figure:
    figure, axes = _panel()
    _line(axes, log, "advantage/zero_std_groups", BLUE, "")
    axes.set(ylabel=f"groups (of {prompts_per_step})", ylim=(-0.02 * prompts_per_step, 1.02 * prompts_per_step))
    return figure


def gradient(log: pd.DataFrame) -> Figure:
    """Gradient norm before clipping, and the learning rate on the right axis."""
    figure, axes = _panel()
    _line(axes, log, "grad_norm", BLUE, "")
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("gradient norm", color=BLUE)
    rate = axes.twinx()
    rate.plot(log["step"], log["learning_rate"].astype(float), color=ORANGE, linewidth=1.5, **_dots(log))
    rate.set_ylim(0.0, 1.15 * max(float(log["learning_rate"].max()), 1e-12))
    rate.set_ylabel("learning rate", color=ORANGE)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.grid(visible=False)
    return figure


def _curves(log: pd.DataFrame, names: Mapping[str, str], ylabel: str, *, share: bool = False) -> Figure:
    """Columns of the log in one panel that starts at 0; `names` maps them to their legend."""
    figure, axes = _panel()
    for (name, label), color in zip(names.items(), (BLUE, ORANGE), strict=False):
        _line(axes, log, name, color, label)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0.0)
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(names) > 1:
        axes.legend()
    return figure


def _panel() -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.0, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("step")
    return figure, axes


def _line(axes: Any, log: pd.DataFrame, name: str, color: str, label: str) -> None:
    steps, values = log["step"], log[name].astype(float)
    if window_of(len(log)) > 1:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.9)
    axes.plot(steps, running_mean(values), color=color, label=label, **_dots(log))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def _dots(log: pd.DataFrame) -> dict[str, str]:
    """Markers for a line that may have only one point, which would be invisible."""
    return {"marker": "o"} if window_of(len(log)) == 1 else {}


def _mark(axes: Any, step: float, summary: Mapping[str, Any], *, color: str, when: str) -> None:
    """Held-out mean@k with its interval, and the number on the inner side, below the mark if there is room."""
    value, (low, high) = summary["mean_at_k"], summary["mean_at_k_ci95"]
    spread = [[max(0.0, value - low)], [max(0.0, high - value)]]
    label = f"held out, {when} (mean@{summary['k']})"
    axes.errorbar([step], [value], yerr=spread, fmt="o", color=color, markersize=8, capsize=4, label=label, zorder=5)
    sideways, side = (9, "left") if when == "before" else (-9, "right")
    axes.annotate(
        percent(value), (step, value), xytext=(sideways, -17 if value > 0.15 else 17), textcoords="offset points",
        va="center", ha=side, color=color, fontweight="bold",
    )  # fmt: skip


def _tenths(axes: Any, log: pd.DataFrame) -> None:
    """The mean reward of the first and the last tenth of the steps, each as a bar across its steps."""
    tenth = max(1, len(log) // 10)
    for part, color, label in ((log[:tenth], ORANGE, "first tenth"), (log[-tenth:], GREEN, "last tenth")):
        mean, steps = float(part["reward/mean"].mean()), part["step"].to_numpy(float)
        axes.plot(
            steps, np.full(len(steps), mean), color=color, linewidth=4.0, zorder=5, label=f"{label}: {mean:.2f}",
            **_dots(log),
        )  # fmt: skip
    axes.legend(loc="lower right")


def _png(figure: Figure) -> bytes:
    """The figure's bytes, without the name and version of the program that drew it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
