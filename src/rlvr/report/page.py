"""Build report.html from its sections, in the order of a reader's questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from rlvr.report import markup, tables
from rlvr.report.conclusion import Change, Conclusion
from rlvr.report.figures import window_of
from rlvr.report.load import Inputs
from rlvr.report.text import NONE, duration, number, percent, percent_interval, size
from rlvr.report.vram import memory_section

NAMES = {"base": "base", "sft": "after pre-finetune", "grpo": "after GRPO"}

CURVES = {
    "learning": (
        "Accuracy and mean reward",
        "An answer counts only when its format and its value are right. A step's accuracy and reward are those of "
        "fresh samples, before the update that learns from them. The marks are held-out questions with 95% intervals.",
    ),
    "rewards": (
        "Every reward function by itself",
        "Mean points before weighting. One that rises alone while accuracy does not is being exploited.",
    ),
    "length": ("Completion length", "Sampled tokens, the end of sequence included."),
    "entropy": (
        "Entropy",
        "How undecided the policy is, over the tokens that were trained on; near 0 all completions of a group are "
        "alike. A step in which no group had a signal shows 0.",
    ),
    "clip": (
        "Clip fractions",
        "Trained tokens whose ratio lies beyond the lower and the upper bound. 0 when each rollout is used only once.",
    ),
    "signal": (
        "Groups without signal",
        "All completions of the group got the same reward: too easy or too hard, so no gradient.",
    ),
    "gradient": ("Gradient norm and learning rate", "The norm is taken before clipping."),
}
PRE_FINETUNE = (
    "Format and accuracy of sampled answers",
    "Measured on the dev questions; step 0 is the model as it came. GRPO starts where this curve ends.",
)
WIDE = ("learning", "rewards")


def render_page(
    inputs: Inputs,
    conclusion: Conclusion,
    changed: Mapping[str, Change],
    trained: Mapping[str, Change],
    figures: Mapping[str, bytes],
    *,
    examples: int,
) -> str:
    """The whole page. `changed` is from `inputs.before` to grpo, `trained` during GRPO; `figures` are PNGs by name."""
    return markup.document(
        "GRPO report",
        [
            _header(inputs),
            markup.section("", *map(markup.paragraph, conclusion.sentences), css=f"verdict {conclusion.kind}"),
            _comparison(inputs, changed),
            _pre_finetune(figures),
            _curves(inputs, figures),
            _training(trained),
            _correlations(inputs),
            _examples(inputs, examples),
            _time_and_memory(inputs),
            memory_section(inputs.account, figures["memory"]),
            _settings(inputs),
        ],
    )


def _header(inputs: Inputs) -> str:
    params = inputs.params
    what = [
        f"model {params['model']['source']}",
        f"task {params['prepare']['task']}",
        f"{inputs.train['steps']} GRPO steps",
        f"device {inputs.policy_card['device']}",
    ]
    return f"<header><h1>GRPO report</h1>{markup.paragraph(' · '.join(what), css='soft')}</header>"


def _comparison(inputs: Inputs, changed: Mapping[str, Change]) -> str:
    summaries = inputs.summaries
    k = summaries["grpo"]["k"]
    rows = [
        _interval_row("accuracy, greedy", "accuracy", summaries, changed),
        _row("accuracy, greedy, lenient", summaries, lambda s: percent(s["accuracy_lenient"])),
        _interval_row(f"mean@{k}, sampled", "mean_at_k", summaries, changed),
        *(
            _row(f"pass@{n}", summaries, lambda s, n=n: percent(tables.pass_at(s)[n]))
            for n in tables.pass_at(summaries["grpo"])
        ),
        _row("right format, greedy", summaries, lambda s: percent(s["format_rate"])),
        _row("tokens, greedy, mean", summaries, lambda s: number(s["mean_tokens"], 1)),
        _row("truncated, greedy", summaries, lambda s: percent(s["truncated"])),
        _row("problems", summaries, lambda s: str(s["count"])),
    ]
    temperature = inputs.params["evaluate"]["temperature"]
    note = (
        f"Held-out problems; mean@{k} and pass@k are sampled at temperature {temperature:g}. 95% intervals: Wilson for "
        f"greedy accuracy, Agresti-Coull over problems for mean@{k}, Agresti-Min over their changes from "
        f"“{NAMES[inputs.before]}” to “{NAMES['grpo']}”. Lenient uses what follows the answer tag, whatever the "
        "format, or else the last number in the text."
    )
    head = ["", *(NAMES[name] for name in summaries), "change"]
    return markup.section("Before and after", markup.table(head, rows), markup.paragraph(note, css="soft"))


def _row(title: str, summaries: Mapping[str, Mapping[str, Any]], show: Any) -> list[str]:
    return [title, *(show(summary) for summary in summaries.values()), ""]


def _interval_row(
    title: str, name: str, summaries: Mapping[str, Mapping[str, Any]], changed: Mapping[str, Change]
) -> list[str]:
    row = _row(title, summaries, lambda s: f"{percent(s[name])}\n{percent_interval(*s[f'{name}_ci95'])}")
    return [*row[:-1], changed[name].points.replace(" points ", " points\n")]


def _pre_finetune(figures: Mapping[str, bytes]) -> str:
    if "pre_finetune" not in figures:
        return ""
    return markup.section("Pre-finetune", markup.figure(figures["pre_finetune"], *PRE_FINETUNE))


def _curves(inputs: Inputs, figures: Mapping[str, bytes]) -> str:
    if inputs.log.empty:
        return markup.section("Learning curves", markup.paragraph("The log holds no step: there is nothing to draw."))
    wide = [markup.figure(figures[name], *CURVES[name], css="wide") for name in WIDE]
    narrow = [markup.figure(png, *CURVES[name]) for name, png in figures.items() if name in CURVES and name not in WIDE]
    window = window_of(len(inputs.log))
    note = f"Faint: every step. Line: running mean over {window} steps." if window > 1 else "Every step is shown."
    pairs = '<div class="pair">' + "\n".join(narrow) + "</div>"
    return markup.section("Learning curves", markup.paragraph(note, css="soft"), *wide, pairs)


def _training(trained: Mapping[str, Change]) -> str:
    title = "During training: the last quarter of the steps compared with the first"
    if not trained:
        return markup.section(title, markup.paragraph("Fewer than 8 steps: there are no quarters to compare."))
    rows = [
        [name, number(change.before, 3), number(change.after, 3), f"{change.difference:+.3f}",
         f"[{change.low:+.3f}, {change.high:+.3f}]", "" if change.kind != "unclear" else "includes 0"]
        for name, change in trained.items()
    ]  # fmt: skip
    head = ["mean over steps", "first quarter", "last quarter", "change", "95% interval", ""]
    note = "Bootstrap over steps. Every step samples other questions, so a short run leaves wide intervals."
    return markup.section(title, markup.table(head, rows), markup.paragraph(note, css="soft"))


def _correlations(inputs: Inputs) -> str:
    title = "Do the rewards reward being right?"
    if inputs.completions.empty:
        return markup.section(title, markup.paragraph("No completion was logged."))
    table = tables.correlations(inputs.completions, reward_weights(inputs))
    rows = [
        [
            row["reward"],
            NONE if pd.isna(row["weight"]) else f"{row['weight']:g}",
            "constant" if pd.isna(row["correlation"]) else f"{row['correlation']:+.2f}",
            "constant" if pd.isna(row["within_groups"]) else f"{row['within_groups']:+.2f}",
            number(row["mean_when_right"], 2),
            number(row["mean_when_wrong"], 2),
            str(row["n"]),
        ]
        for row in table.to_dict("records")
    ]
    head = ["reward", "weight", "correlation", "within groups", "mean when right", "mean when wrong", "n"]
    advice = (
        "Point-biserial correlation with strict correctness over the logged training completions. A reward with a low "
        "correlation pays for something other than being right: fine for a small format bonus, but if it can outweigh "
        "the answer reward, lower its weight or fix it. “Within groups” compares only answers to the same question "
        "in the same step, which is all that GRPO learns from."
    )
    return markup.section(title, markup.table(head, rows), markup.paragraph(advice, css="soft"))


def reward_weights(inputs: Inputs) -> dict[str, float]:
    """The weight of each reward function, by name."""
    return {name: setting["weight"] for name, setting in inputs.params["rewards"].items()}


def _examples(inputs: Inputs, count: int) -> str:
    evaluations = inputs.evaluations
    outcomes = tables.outcomes(evaluations[inputs.before], evaluations["grpo"])
    counts = ", ".join(f"{len(rows)} {what}" for what, rows in outcomes.items())
    note = f"Greedy answers to held-out questions, “{NAMES[inputs.before]}” compared with “{NAMES['grpo']}”: {counts}."
    blocks = [_example(evaluations, row, inputs.before) for row in tables.choose_examples(outcomes, count)]
    if evaluations["grpo"]["level"].nunique() > 1:
        blocks.append(_levels(evaluations))
    return markup.section("Answers before and after", markup.paragraph(note, css="soft"), *blocks)


def _example(evaluations: Mapping[str, pd.DataFrame], row: int, before: str) -> str:
    records = {name: table.iloc[row] for name, table in evaluations.items()}
    was, now = (bool(records[name]["correct"]) for name in (before, "grpo"))
    answers = "\n".join(_answer(NAMES[name], record) for name, record in records.items())
    return (
        f'<div class="example"><div class="question">{escape(str(records["grpo"]["question"]))}</div>'
        f'<p class="soft">right answer {escape(str(records["grpo"]["answer"]))} · {_change_words(was, now)}</p>'
        f'<div class="answers">{answers}</div></div>'
    )


def _change_words(was: bool, now: bool) -> str:
    before, after = ("right" if verdict else "wrong" for verdict in (was, now))
    return f"{before} before, {after} after" if was != now else f"{after} before and after"


def _answer(title: str, record: pd.Series[Any]) -> str:
    mark = '<span class="right">✓ right</span>' if record["correct"] else '<span class="wrong">✗ wrong</span>'
    cut = " · cut off" if record["is_truncated"] else ""
    head = f"<b>{escape(title)}</b> {mark}"
    sampled = f"{record['num_correct']} of {record['num_samples']} samples right{cut}"
    return f'<div>{head} <span class="soft counts">{sampled}</span><pre>{escape(str(record["text"]))}</pre></div>'


def _levels(evaluations: Mapping[str, pd.DataFrame]) -> str:
    table = tables.by_level(evaluations)
    rows = [
        [
            f"level {level}",
            str(part["count"].iloc[0]),
            *(f"{percent(row['accuracy'])}\nsampled {percent(row['mean_at_k'])}" for row in part.to_dict("records")),
        ]
        for level, part in table.groupby("level")
    ]
    return "<h3>Accuracy by level</h3>" + markup.table(["", "problems", *(NAMES[name] for name in evaluations)], rows)


def _time_and_memory(inputs: Inputs) -> str:
    table = tables.phases(inputs.sft, inputs.train, inputs.memory)
    rows = [
        [
            row["phase"],
            duration(row["seconds"]),
            NONE if pd.isna(row["share"]) else percent(row["share"]),
            size(row["peak_bytes"]),
        ]
        for row in table.to_dict("records")
    ]
    total = ["all", duration(float(table["seconds"].sum())), "", size(table["peak_bytes"].astype(float).max())]
    return markup.section(
        "Time and memory",
        markup.table(["phase", "time", "share", "peak memory"], [*rows, total]),
        markup.paragraph(_memory_note(inputs.policy_card["device"], inputs.memory["kind"]), css="soft"),
    )


def _memory_note(device: str, kind: str) -> str:
    if device.startswith("cuda"):
        return f"Peak memory is VRAM ({kind}), the largest over all steps; rollout, score and update are GRPO's phases."
    where = "the CPU, so no VRAM was used" if device == "cpu" else f"{device}, whose memory is not measured"
    return (
        f"This run was on {where}. Peak memory is {kind} instead: the whole process with its libraries, the "
        "largest over all steps; rollout, score and update are GRPO's phases."
    )


def _settings(inputs: Inputs) -> str:
    card = inputs.policy_card
    made_by = [
        ["platform", card["platform"]],
        ["device", card["device"]],
        ["precision", card["precision"]],
        *([name, version or "not installed"] for name, version in card["versions"].items()),
    ]
    splits = [
        [
            name,
            str(split["count"]),
            ", ".join(f"{level}: {count}" for level, count in split["levels"].items()),
            _range(split["prompt_tokens"]),
            _range(split["target_tokens"]),
            split["sha256"],
        ]
        for name, split in inputs.data_card["splits"].items()
    ]
    head = ["split", "problems", "by level", "prompt tokens", "target tokens", "sha256"]
    settings = [[name, json.dumps(value, ensure_ascii=False)] for name, value in flatten(inputs.params)]
    return markup.section(
        "Settings and origin",
        markup.folded("Made by", markup.table(["", ""], made_by, css="left", long=(1,))),
        markup.folded("Data", markup.table(head, splits, css="left", long=(5,))),
        markup.folded("Parameters", markup.table(["name", "value"], settings, css="left", long=(0, 1))),
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    """Nested settings as (dotted name, value), sorted by name at each level."""
    pairs: list[tuple[str, Any]] = []
    for name, value in sorted(values.items()):
        pairs += (
            flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else [(prefix + name, value)]
        )
    return pairs


def _range(lengths: Mapping[str, float]) -> str:
    return f"{lengths['min']} to {lengths['max']}, mean {lengths['mean']:.1f}"
