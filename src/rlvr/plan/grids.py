"""Tables of plans, as plain text cells: the terminal and the documentation show the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.plan.cards import GIB, Card
from rlvr.plan.planner import Plan, least_bytes, longest_context, plan, with_context
from rlvr.plan.predict import PHASES
from rlvr.plan.published import COMPLETIONS as PUBLISHED_COMPLETIONS
from rlvr.plan.published import CONTEXT as PUBLISHED_CONTEXT
from rlvr.plan.published import TABLE, ours, standard_logits_bytes, standard_weights_bytes
from rlvr.plan.settings import SLACK, PlanSettings
from rlvr.plan.shapes import Shape


@dataclass(frozen=True)
class Grid:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """A table for a Markdown page, without the title; numbers to the right."""
        lines = [self.header, ("---", *("---:" for _ in self.header[1:])), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def longest_grid(shapes: Sequence[Shape], cards: Sequence[Card], settings: PlanSettings) -> Grid:
    """The longest context of each model on each card, and the rule of thumb next to it."""
    rows = []
    for shape in sorted(shapes, key=Shape.parameters):
        contexts = [_context(shape, longest_context(shape, settings, card)) for card in cards]
        rows.append((shape.name, f"{shape.parameters() / 1e9:.1f}", *contexts))
    header = ("model", "billion weights", *(card.name for card in cards))
    return Grid(f"longest context, prompt included: {recipe(settings)}", header, tuple(rows))


def least_grid(shapes: Sequence[Shape], contexts: Sequence[int], settings: PlanSettings) -> Grid:
    """The smallest card, in GiB, for each model and context; a dash beyond what the model was made for."""
    rows = []
    for shape in sorted(shapes, key=Shape.parameters):
        needs = [
            f"{least_bytes(shape, with_context(settings, context)) / GIB:.1f}"
            if context <= shape.max_position_embeddings
            else "–"
            for context in contexts
        ]
        rows.append((shape.name, f"{shape.parameters() / 1e9:.1f}", *needs))
    header = ("model", "billion weights", *(f"{context:,} tokens" for context in contexts))
    return Grid(f"smallest card in GiB: {recipe(settings)}", header, tuple(rows))


def plan_grid(planned: Plan) -> Grid:
    """The bytes of every phase, row by row, in GiB."""
    prediction = planned.prediction
    phases = [phase for phase in PHASES if phase in prediction.phases]
    names = dict.fromkeys(row.name for phase in phases for row in prediction.phases[phase] if row.amount_bytes)
    amounts = {phase: {row.name: row.amount_bytes for row in prediction.phases[phase]} for phase in phases}
    rows = [(name, *(_gib(amounts[phase].get(name, 0)) for phase in phases)) for name in names]
    rows.append(("tensors", *(_gib(prediction.allocated_bytes(phase)) for phase in phases)))
    if prediction.driver_bytes:
        slack = (_gib(prediction.slack_bytes(phase)) for phase in phases)
        rows.append((f"allocator's slack, assumed {SLACK:.0%} of what comes and goes", *slack))
        rows.append(("CUDA, assumed", *(_gib(prediction.driver_bytes) for _ in phases)))
        rows.append(("on the card", *(_gib(prediction.device_bytes(phase)) for phase in phases)))
    title = (
        f"{planned.shape.name} on {planned.card.name}, {planned.settings.context:,} tokens: {recipe(planned.settings)}"
    )
    return Grid(title, ("GiB", *phases), tuple(rows))


def cards_grid(shape: Shape, cards: Sequence[Card], settings: PlanSettings) -> Grid:
    """One model on several cards, at the context of `settings`."""
    rows = []
    for card in cards:
        planned = plan(shape, settings, card, ())
        peak = f"{planned.prediction.peak_bytes / GIB:.1f}"
        longest = _context(shape, longest_context(shape, settings, card))
        choices = ("; ".join(choices_of(planned)),) if planned.fits else ("does not fit",)
        rows.append((card.name, f"{card.memory_bytes / GIB:.1f}", peak, longest, *choices))
    header = ("card", "GiB", "peak, GiB", "longest context", f"chosen for {settings.context:,} tokens")
    return Grid(f"{shape.name}: {recipe(settings)}", header, tuple(rows))


def examples_grid(plans: Sequence[Plan]) -> Grid:
    """One line for each plan."""
    rows = tuple(
        (
            f"{planned.shape.name}, {planned.settings.context:,} tokens, {planned.card.name}",
            f"{planned.prediction.peak_bytes / GIB:.1f} of {planned.card.memory_bytes / GIB:.1f}"
            + ("" if planned.fits else ": does not fit"),
            f"{planned.prediction.host_bytes / GIB:.1f}",
            f"{planned.tokens_per_micro_batch:,}",
            "host" if planned.choice.offload else "card",
            str(planned.choice.kv_sequences),
        )
        for planned in plans
    )
    header = ("run", "peak, GiB", "host, GiB", "tokens per micro-batch", "layer inputs", "completions at once")
    return Grid("examples", header, rows)


def published_grid(shape: Shape, settings: PlanSettings) -> Grid:
    """The published table next to our own rows, in both accountings, in GiB."""
    logits = standard_logits_bytes(shape, completions=PUBLISHED_COMPLETIONS, context=PUBLISHED_CONTEXT)
    kv = PUBLISHED_CONTEXT * shape.kv_bytes_per_token(2)
    formulas = ("", _two(logits), _two(standard_weights_bytes(shape)), _two(kv), "")
    theirs, together = ours(shape, settings, sequences=PUBLISHED_COMPLETIONS, kv_sequences=1)
    own, alone = ours(shape, settings, sequences=1, kv_sequences=PUBLISHED_COMPLETIONS)
    rows = [
        (row.name, f"{row.standard:g}", formula, f"{row.best:g}", _two(first), _two(second))
        for row, formula, first, second in zip(TABLE, formulas, theirs, own, strict=True)
    ]
    peaks = (_two(together.training_bytes), _two(alone.training_bytes))
    rows.append(("largest peak of an update, tensors", "", "", "", *peaks))
    rows.append(("largest peak, on the card", "", "", "", _two(together.peak_bytes), _two(alone.peak_bytes)))
    header = (
        "GiB", "standard, published", "standard, by formula", "best published",
        "ours: 8 sequences in a micro-batch, KV of 1", "ours: 1 sequence in a micro-batch, KV of 8",
    )  # fmt: skip
    return Grid(
        "for comparison, figures published for 8 sequences of 20,480 tokens (docs/memory.md)", header, tuple(rows)
    )


def choices_of(planned: Plan) -> list[str]:
    """What the planner chose, in words."""
    choice, group = planned.choice, planned.settings.completions
    share = f"{choice.sequences} of {group}" if choice.sequences <= group else f"{choice.sequences} completions"
    inputs = [f"layer inputs on the {'host' if choice.offload else 'card'}", f"tiles of {choice.tile_rows:,} rows"]
    if choice.keep_attention:
        inputs.insert(1, "and attention's outputs with them (keep_attention: on)")
    if planned.settings.recompute == "none":
        inputs = ["layers keep all that backward needs"]
    return [
        f"{planned.tokens_per_micro_batch:,} tokens per micro-batch ({share})",
        *_prompts(planned),
        *inputs,
        f"logits of {min(choice.head_rows, choice.sequences * planned.settings.completion_tokens):,} rows",
        f"{choice.kv_sequences} completion{'s' if choice.kv_sequences > 1 else ''} generated at once"
        + (", optimizer states on the host between steps" if choice.states_on_host else ""),
    ]


def _prompts(planned: Plan) -> list[str]:
    """How a group's prompt is computed, where the group is larger than a micro-batch."""
    if planned.choice.sequences == planned.settings.completions:
        return []
    return [
        f"prompts computed {'once' if planned.choice.share_prompts else 'with each micro-batch (share_prompts: off)'}"
    ]


def recipe(settings: PlanSettings) -> str:
    """The settings that matter for memory, in one line."""
    bits = f"{8 * settings.weight_bytes}-bit weights"
    weights = "4-bit weights (nf4)" if settings.quantization == "nf4" else bits
    trained = "all weights trained" if settings.method == "full" else f"LoRA of rank {settings.rank}"
    return f"{trained}, {weights}, {settings.optimizer}, {settings.completions} completions per prompt"


def _context(shape: Shape, tokens: int) -> str:
    if not tokens:
        return "–"
    is_all = tokens + 256 > shape.max_position_embeddings
    return f"{tokens:,}" + (" (all)" if is_all else "")


def _gib(amount_bytes: int) -> str:
    return f"{amount_bytes / GIB:.2f}" if amount_bytes else ""


def _two(amount_bytes: int) -> str:
    return f"{amount_bytes / GIB:.2f}"
