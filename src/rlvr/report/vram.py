"""Memory of the run: planned, measured, and of the standard implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from rlvr.report import markup
from rlvr.report.figures import GREY, styled
from rlvr.report.text import NONE, size

COLUMNS = (
    "phase", "row", "planned_bytes", "expected_bytes", "measured_bytes", "error_percent", "reserved_bytes",
    "planned_device_bytes", "device_bytes", "standard_bytes",
)  # fmt: skip
COLORS = ("#1e3a8a", "#2563eb", "#93c5fd", "#9a3412", "#ea580c", "#fdba74", "#15803d", "#86efac", "#7e22ce", "#d8b4fe")
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def vram(account: Mapping[str, Any]) -> pd.DataFrame:
    """vram.csv: the planned rows, the sum of each phase compared with the measurement, and the published rows."""
    phases = [phase | {"row": "all tensors"} for phase in account["phases"]]
    standard = [row | {"phase": "standard implementation"} for row in account["standard"]]
    table = pd.DataFrame([*account["rows"], *phases, *standard], columns=list(COLUMNS))
    return table.astype({name: "Int64" for name in COLUMNS if name.endswith("_bytes")})  # whole numbers or missing


def memory_figure(account: Mapping[str, Any]) -> bytes:
    """PNG of the planned rows of each phase, stacked, with a line at the measured peak."""
    return styled({"memory": lambda: _bars(account)})["memory"]


def memory_section(account: Mapping[str, Any], png: bytes) -> str:
    on_card = "on the card" if account["is_cuda"] else "process"
    head = ["phase", "planned", "at this run's mean lengths", "measured", "error", f"{on_card}, measured"]
    if account["is_cuda"]:
        head += [f"{on_card}, planned", "reserved"]
    rows = [_phase_row(phase, is_cuda=account["is_cuda"]) for phase in account["phases"]]
    standard = [
        [row["row"], _amount(row["standard_bytes"]), _amount(row["planned_bytes"])] for row in account["standard"]
    ]
    return markup.section(
        "Memory: planned, measured, and the standard implementation",
        markup.table(head, rows),
        markup.paragraph(_note(account), css="soft"),
        markup.figure(png, "Where the bytes are", "Bars: planned, by row. Line: measured.", css="wide"),
        markup.paragraph("Chosen: " + "; ".join(account["settings"]) + "."),
        markup.paragraph(
            f"The longest sequence that fits {account['card']} ({_amount(account['card_bytes'])}), within the model's "
            f"limit, is {account['longest_context_tokens']:,} tokens; this run's longest is "
            f"{account['context_tokens']:,}."
        ),
        markup.table(["", "standard implementation, by formula", "this run, planned"], standard),
        markup.paragraph(
            "The standard implementation makes two 16-bit tables of the logits of a whole micro-batch and keeps a "
            "second copy of the weights for inference; the figures published for it count the KV cache of one "
            "sequence, ours of all that are generated at once.",
            css="soft",
        ),
    )


def _phase_row(phase: Mapping[str, Any], *, is_cuda: bool) -> list[str]:
    error = phase["error_percent"]
    row = [
        phase["phase"],
        _amount(phase["planned_bytes"]),
        _amount(phase["expected_bytes"]),
        _amount(phase["measured_bytes"]),
        NONE if error is None else f"{error:+.1f}%",
        _amount(phase["device_bytes"]),
    ]
    return [*row, _amount(phase["planned_device_bytes"]), _amount(phase["reserved_bytes"])] if is_cuda else row


def _note(account: Mapping[str, Any]) -> str:
    what = (
        "Tensors at their peak. Planned is for sequences of the longest length allowed; the next column has the same "
        "formulas at this run's mean lengths, and error is its distance from measured. "
    )
    if account["is_cuda"]:
        return what + "Reserved is what torch's allocator held, and on the card what all programs together used."
    return what + (
        "On a CPU tensors are counted operation by operation in the first two steps; process is the resident memory "
        "with all libraries."
    )


def _bars(account: Mapping[str, Any]) -> Figure:
    phases = account["phases"]
    amounts: dict[str, dict[str, float]] = {}
    for row in account["rows"]:
        amounts.setdefault(row["row"], {})[row["phase"]] = row["planned_bytes"]
    peaks = [max(phase["planned_bytes"], phase["measured_bytes"] or 0) for phase in phases]
    unit, unit_name = next((pair for pair in UNITS if max(peaks) >= pair[0]), UNITS[-1])
    figure = Figure(figsize=(11.0, 3.9), layout="constrained")
    axes = figure.subplots()
    starts = dict.fromkeys((phase["phase"] for phase in phases), 0.0)
    shown, small = _largest(amounts, 0.01 * max(peaks))
    for color, (name, by_phase) in zip([*COLORS[: len(shown)], GREY], [*shown.items(), *small.items()], strict=False):
        widths = [by_phase.get(phase, 0.0) / unit for phase in starts]
        axes.barh(list(starts), widths, left=list(starts.values()), color=color, label=name, height=0.55)
        starts = {phase: start + width for (phase, start), width in zip(starts.items(), widths, strict=True)}
    for place, phase in enumerate(phases):
        if phase["measured_bytes"] is not None:
            axes.plot([phase["measured_bytes"] / unit] * 2, [place - 0.38, place + 0.38], color="black", linewidth=2.5)
    axes.plot([], [], color="black", linewidth=2.5, label="measured")
    axes.set(xlabel=unit_name)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9.0)
    return figure


def _largest(
    amounts: Mapping[str, dict[str, float]], least: float
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """The rows that get their own color, in their order, and the sum of the others."""
    ranked = sorted(amounts, key=lambda name: max(amounts[name].values()), reverse=True)
    names = {name for name in ranked[: len(COLORS)] if max(amounts[name].values()) >= least}
    rest: Sequence[dict[str, float]] = [row for name, row in amounts.items() if name not in names]
    together = {phase: sum(row.get(phase, 0.0) for row in rest) for row in rest for phase in row}
    return {name: row for name, row in amounts.items() if name in names}, {"the rest": together} if together else {}


def _amount(num_bytes: int | None) -> str:
    """A size, in KiB if below 1 MiB."""
    return f"{num_bytes / 2**10:.0f} KiB" if num_bytes is not None and 0 < num_bytes < 2**20 else size(num_bytes)
