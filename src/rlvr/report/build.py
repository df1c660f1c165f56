"""Build the report's files in memory."""

from __future__ import annotations

from pathlib import Path

from rlvr.report import tables
from rlvr.report.conclusion import Conclusion, changes, conclude, training_changes
from rlvr.report.figures import draw_figures, pre_finetune
from rlvr.report.load import Inputs
from rlvr.report.page import render_page, reward_weights
from rlvr.report.vram import memory_figure, vram


def build_report(inputs: Inputs, *, examples: int, resamples: int, seed: int) -> tuple[Conclusion, dict[Path, bytes]]:
    """The conclusion, and the contents of every file by its path inside the report's folder."""
    weights = reward_weights(inputs)
    changed = changes(inputs.evaluations[inputs.before], inputs.evaluations["grpo"])
    conclusion = conclude(inputs.before, inputs.summaries, changed, inputs.train)
    figures = draw_figures(
        inputs.log,
        before=inputs.summaries[inputs.before],
        after=inputs.summaries["grpo"],
        rewards=weights,
        prompts_per_step=inputs.params["grpo"]["prompts_per_step"],
    )
    if (start := pre_finetune(inputs.sft_log)) is not None:
        figures["pre_finetune"] = start
    figures["memory"] = memory_figure(inputs.account)
    names = {"accuracy": "accuracy", "reward": "reward/mean"}
    names |= {f"reward/{name}": f"reward/{name}/mean" for name in weights}
    trained = training_changes(inputs.log, names, resamples=resamples, seed=seed)
    written = {
        "training": tables.training(trained),
        "curves": tables.curves(inputs.log),
        "comparison": tables.comparison(inputs.summaries),
        "correlations": tables.correlations(inputs.completions, weights),
        "vram": vram(inputs.account),
    }
    page = render_page(inputs, conclusion, changed, trained, figures, examples=examples)
    files = {Path("report.html"): page.encode()}
    files |= {
        Path(f"{name}.csv"): table.to_csv(index=False, lineterminator="\n").encode() for name, table in written.items()
    }
    files |= {Path("figures", f"{name}.png"): png for name, png in figures.items()}
    return conclusion, files
