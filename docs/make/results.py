"""The tables of measured results, in README.md and docs/results/README.md: `make docs` writes them.

They come from what runs and benchmarks left: docs/results/<run>/ and benchmarks/results/cpu/. Each says at which commit
and on which device it was measured.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.plan.grids import Grid

README = Path("README.md")
RELIABILITY = Path("docs/reliability.md")
MEMORY = Path("docs/memory.md")
PAGES = (README, Path("docs/results/README.md"), RELIABILITY, MEMORY)
RUNS, FIGURES = Path("docs/results"), Path("benchmarks/results/cpu")
MIB = 2**20
MODELS = ("smollm2-135m-arithmetic", "smollm2-135m-gsm8k")
PHASES = {
    "load": "load",
    "rollout": "rollout, 256 completions at once",
    "update": "update, 4,096 tokens in a micro-batch",
    "optimizer": "optimizer",
}


def blocks(page: Path) -> dict[str, str]:
    """Every generated block of a page by the name of its marker."""
    if page == README:
        return {"default": default_in_short(), "smollm2": models_in_short()}
    if page == RELIABILITY:
        return {"torture": torture()}
    if page == MEMORY:
        return {"plans": plans()}
    return {
        "default": default_run(), "seeds": seeds(), "losses": losses(), "trl": trl(), "sampling": sampling(),
        "memory": memory(), "smollm2": models(), "quarters": quarters(MODELS[1]),
    }  # fmt: skip


def default_in_short() -> str:
    before, after = evaluations("default")
    spread = [run["grpo"] for run in figures("seeds")["runs"] if run["name"].startswith("seed")]
    rows = (
        ("one sampled answer right (mean@8)", _interval(before, "mean_at_k"), f"**{_interval(after, 'mean_at_k')}**",
         _spread(spread, "mean_at_k")),
        ("greedy answer right", _interval(before, "accuracy"), f"**{_interval(after, 'accuracy')}**",
         _spread(spread, "accuracy")),
        ("in the right format", _percent(before["format_rate"]), _percent(after["format_rate"]),
         _spread(spread, "format_rate")),
    )  # fmt: skip
    header = (
        f"{before['count']} held-out problems", "after the pre-finetune, seed 0", "after GRPO (300 steps), seed 0",
        f"after GRPO, {len(spread)} seeds",
    )  # fmt: skip
    seeds_at = f"The six seeds: at commit {figures('seeds')['commit'][:7]}."
    return f"{_table(header, rows)}\n\nBrackets are 95 % intervals. {_made_by(card('default'))} {seeds_at}"


def models_in_short() -> str:
    before, after = evaluations(MODELS[0])
    return (
        "SmolLM2-135M-Instruct with LoRA learns two-digit addition on one CPU thread. Mean@4 goes from "
        f"{_percent(before['mean_at_k'])} to **{_percent(after['mean_at_k'])}**.\n"
        f"Measured at commit {card(MODELS[0])['commit'][:7]}."
    )


def default_run() -> str:
    before, after = evaluations("default")
    first = _table(
        (f"{before['count']} held-out problems, seed 0, native", "after the format pre-finetune", "after 300 steps"),
        [
            ("one sampled answer right (mean@8)", *(_interval(one, "mean_at_k") for one in (before, after))),
            ("greedy answer right", *(_interval(one, "accuracy") for one in (before, after))),
            ("in the right format", *(_percent(one["format_rate"]) for one in (before, after))),
        ],
    )
    samplers = []
    for name, run in (("native", "default"), ("vllm", "default-vllm")):
        start, end = evaluations(run)
        seconds = load(RUNS / run / "train.json")["seconds"]
        samplers.append(
            (name, _percent(start["mean_at_k"]), _percent(end["mean_at_k"]), _percent(end["accuracy"]),
             f"{seconds['rollout']:.0f} s, {seconds['update']:.0f} s", card(run)["commit"][:7])
        )  # fmt: skip
    second = _table(
        ("sampler", "before, mean@8", "after 300 steps, mean@8", "greedy", "rollouts, updates", "commit"), samplers
    )
    phases = [
        (PHASES[phase["phase"]], *(_mib(phase[key]) for key in ("planned_bytes", "expected_bytes", "measured_bytes")))
        for phase in load(RUNS / "default/memory.json")["phases"]
    ]
    third = _table(("tensors at their peak, native", "planned", "for the lengths that came", "measured"), phases)
    return "\n\n".join([first, second, third])


def seeds() -> str:
    rows = [
        (run["name"], *(f"{run['sft'][key]:.3f} → {run['grpo'][key]:.3f}" for key in ("accuracy", "mean_at_k")))
        for run in figures("seeds")["runs"]
    ]
    header = ("run", "greedy, before → after", "mean@8, before → after")
    return f"{_made_by(figures('seeds'))}\n\n{_table(header, rows)}"


def losses() -> str:
    rows = []
    for run in figures("loss_types")["runs"]:
        name = f"{run['name']} (the default)" if run["name"] == "dr_grpo" else run["name"]
        low, high = run["grpo"]["mean_at_k_ci95"]
        greedy = f"{run['sft']['accuracy']:.3f} → {run['grpo']['accuracy']:.3f}"
        sampled = f"{run['sft']['mean_at_k']:.3f} → {run['grpo']['mean_at_k']:.3f}"
        rows.append((name, sampled, f"{low:.3f} to {high:.3f}", greedy))
    header = ("`loss_type`", "mean@8, before → after", "95 % interval", "greedy, before → after")
    return f"{_made_by(figures('loss_types'))}\n\n{_table(header, rows)}"


def trl() -> str:
    made = figures("trl_step")
    (run,) = made["runs"]
    ours, theirs, version = run["rlvr"], run["trl"], run["trl_version"]
    rows = [
        ("whole loop, total", f"{ours['loop']['total']:.1f} s", f"{theirs['loop']['total']:.1f} s",
         f"**{ours['loop']['total'] / theirs['loop']['total']:.2f}**"),
        ("generation to optimizer step, median", f"{1000 * ours['step']['median']:.0f} ms",
         f"{1000 * theirs['step']['median']:.0f} ms", f"{ours['step']['median'] / theirs['step']['median']:.2f}"),
        ("accuracy, first → last 10 steps", *(f"{side['accuracy']['first_10']:.2f} → {side['accuracy']['last_10']:.2f}"
                                               for side in (ours, theirs)), ""),
    ]  # fmt: skip
    header = (f"{run['steps']} steps, 32 prompts × 8 completions, one pass", "rlvr", f"TRL {version}", "rlvr / TRL")
    load_average = run["load_average_before"][0]
    return f"{_made_by(made)} Load average when it began: {load_average:.1f}.\n\n{_table(header, rows)}"


def torture() -> str:
    run = figures("torture")
    rows = [
        (kind["kind"], str(kind["tried"]), str(kind["held"]), str(len(kind["failures"])), f"{kind['seconds']:.0f}")
        for kind in run["runs"]
    ]
    failed = [f"- {kind['kind']}: {failure['what']}" for kind in run["runs"] for failure in kind["failures"]]
    listed = "\n\nFailed:\n\n" + "\n".join(failed) if failed else ""
    return f"{_made_by(run)}\n\n{_table(('kind', 'tried', 'held', 'failed', 'seconds'), rows)}{listed}"


def plans() -> str:
    """What two steps needed, and how far the formulas are off, by phase."""
    run = figures("plans")
    rows = []
    for entry in run["runs"]:
        changes = {name: value for name, value in entry["changes"].items() if name != "grpo.steps"}
        name = ", ".join([entry["preset"], *(f"`{key}: {value}`" for key, value in changes.items())])
        rows.append((name, *(_planned(entry["phases"].get(phase)) for phase in PHASES)))
    return f"{_made_by(run)}\n\n{_table(('two steps of', *PHASES), rows)}"


def _planned(phase: Mapping[str, float] | None) -> str:
    return "–" if phase is None else f"{phase['measured_mib']:,.2f}, {phase['error_percent']:+.1f} %"


def sampling() -> str:
    run = figures("sampling")
    by_type = {entry["dtype"].removeprefix("torch."): entry["times_generate"] for entry in run["runs"]}
    types = ("bfloat16", "float32")
    rows = [(label, *(f"{by_type[name][key]:.1f}" for name in types))
            for label, key in (("native", "native"), ("vLLM", "vllm"))]  # fmt: skip
    return f"{_made_by(run)}\n\n{_table(('speed, `generate` = 1', *types), rows)}"


def memory() -> str:
    run = figures("memory")
    plain, ours = run["runs"]
    rows = [
        (f"peak of live tensors, of which {ours['of_it_weights_mib']} MiB weights",
         *(f"{side['peak_mib']:,} MiB" for side in (ours, plain))),
        ("seconds", *(f"{side['seconds']:.0f}" for side in (ours, plain))),
    ]  # fmt: skip
    return f"{_made_by(run)}\n\n{_table(('update', 'rlvr', 'plain'), rows)}"


def models() -> str:
    rows = []
    for name in MODELS:
        before, after = evaluations(name)
        for label, key in ((f"mean@{before['k']}", "mean_at_k"), ("greedy", "accuracy")):
            cells = (_interval(before, key), _interval(after, key), card(name)["commit"][:7])
            rows.append((f"{name}, {label}", *cells))
    return _table(("preset", "before GRPO", "after GRPO", "commit"), rows)


def quarters(run: str) -> str:
    """The last quarter of the steps compared with the first."""
    with (RUNS / run / "training.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            (f"`{row.pop('quantity')}`", *(f"{float(row[name]):.3f}" for name in ("first_quarter", "last_quarter")),
             f"{float(row['change']):+.3f} [{float(row['change_low']):+.3f}, {float(row['change_high']):+.3f}]")
            for row in csv.DictReader(file)
        ]  # fmt: skip
    return _table(("mean of the steps", "first quarter", "last quarter", "change"), rows)


def with_blocks(text: str, page: Path) -> str:
    """The page with what lies between `<!-- figures: NAME -->` and its end written from the figures."""
    for name, block in blocks(page).items():
        between = re.compile(rf"(?<=<!-- figures: {name} -->\n).*?(?=<!-- /figures: {name} -->)", re.DOTALL)
        parts = between.split(text)
        if len(parts) != 2:
            raise ValueError(f"{page} must hold the markers of {name} once, and holds them {len(parts) - 1} times")
        text = f"{block}\n".join(parts)
    return text


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def figures(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load(FIGURES / f"{name}.json")
    return found


def card(run: str) -> dict[str, Any]:
    """What made the policy; its commit is in .pipeline/commits.json of the run, and was in the card before."""
    found: dict[str, Any] = load(RUNS / run / "card.json")
    commits = RUNS / run / "commits.json"
    return found | ({"commit": load(commits)["grpo"]} if commits.exists() else {})


def evaluations(run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was measured before and after GRPO."""
    models = load(RUNS / run / "evaluate.json")
    return models["sft"], models["grpo"]


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return Grid("", header, tuple(rows)).markdown()


def _made_by(about: Mapping[str, Any]) -> str:
    device = "one CPU thread" if about["device"] == "cpu" else about["device"]
    return f"Measured at commit {about['commit'][:7]}, on {device}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(measured: Mapping[str, Any], key: str) -> str:
    low, high = measured[f"{key}_ci95"]
    return f"{_percent(measured[key])} [{100 * low:.1f}, {100 * high:.1f}]"


def _spread(measured: Sequence[Mapping[str, Any]], key: str) -> str:
    low, high = (pick(one[key] for one in measured) for pick in (min, max))
    return _percent(low) if low == high else f"{_percent(low)} to {_percent(high)}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.2f} MiB"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_blocks(page.read_text(encoding="utf-8"), page), encoding="utf-8")
