"""`rlvr plan`: which run fits on which card, before anything is downloaded."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rlvr.plan.cards import CARDS, COMMON, GIB, SPEED_OF, Card, card_of_size, find_card
from rlvr.plan.grids import Grid, cards_grid, choices_of, longest_grid, plan_grid, published_grid
from rlvr.plan.planner import CONTEXT_STEP, Plan, choose, longest_context, plan, with_context
from rlvr.plan.published import rule_of_thumb
from rlvr.plan.settings import PlanSettings, check
from rlvr.plan.shapes import Shape, all_shapes, find_shape
from rlvr.types import UserError

PIPED_WIDTH = 140
LONGEST_NUMBER = 20  # letters of a cell that is still set to the right


def show(model: str | None, card: Card | None, context: int | None, settings: PlanSettings) -> bool:
    """Print the plan of `model` on `card`, or of all models or on the common cards where these are None.

    `context` None takes the longest that fits. False when what was asked for does not fit. Raises UserError.
    """
    if context is not None and context <= settings.prompt_tokens:
        raise UserError(
            f"--context is {context}, with --prompt {settings.prompt_tokens} of it: leave room for an answer"
        )
    check(settings)
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    cards = [card] if card else [known for known in CARDS if known.name in COMMON]
    if model is None:
        return _show_all(console, cards, context, settings)
    shape = find_shape(model)
    if settings.prompt_tokens >= shape.max_position_embeddings:
        raise UserError(
            f"{shape.name} reads {shape.max_position_embeddings:,} tokens: --prompt {settings.prompt_tokens} leaves "
            "none for an answer; lower --prompt"
        )
    for line in warnings(shape, cards):
        console.print(line)
    if context is not None and context > shape.max_position_embeddings:
        console.print(_beyond(shape, context))
        return False
    if card is None:
        wanted = with_context(settings, context or min(2048, shape.max_position_embeddings))
        console.print(_table(cards_grid(shape, cards, wanted)))
        console.print(rule_of_thumb(shape))
        return any(choose(shape, wanted, known) is not None for known in cards)
    planned = plan_at(shape, settings, card, context)
    _show_plan(console, planned)
    return planned.fits


def plan_at(shape: Shape, settings: PlanSettings, card: Card, context: int | None) -> Plan:
    """The plan at `context`; at the longest that fits where it is None."""
    tokens = context or max(longest_context(shape, settings, card), CONTEXT_STEP)
    return plan(shape, with_context(settings, tokens), card, all_shapes())


def verdict(planned: Plan) -> list[str]:
    """Whether the plan fits, in what it does or what would help, and the rule of thumb."""
    peak, has = planned.prediction.peak_bytes / GIB, planned.card.memory_bytes / GIB
    if planned.fits:
        longest = longest_context(planned.shape, planned.settings, planned.card)
        lines = [f"fits: {peak:.1f} of {has:.1f} GiB at its peak, {planned.prediction.peak_phase}"]
        lines += [f"  {choice}" for choice in choices_of(planned)]
        lines += estimated(planned)
        lines.append(
            f"longest context: {longest:,} tokens (the model's own limit: {planned.shape.max_position_embeddings:,})"
        )
    else:
        lines = [
            f"does not fit: {planned.prediction.peak_phase} needs {peak:.1f} GiB, and {planned.card.name} has {has:.1f}"
        ]
        lines += [f"  try {remedy}" for remedy in planned.remedies] or ["  no setting helps: use a larger card"]
    return [*lines, f"memory of the host: {planned.prediction.host_bytes / GIB:.1f} GiB", rule_of_thumb(planned.shape)]


def estimated(planned: Plan) -> list[str]:
    """The time of an update where cards' peaks say something of it: in 16 bits on a card."""
    if not planned.settings.is_cuda or planned.settings.weight_bytes != 2:
        return []
    known = "" if planned.card in CARDS else f", at the speed of {SPEED_OF}"
    count = planned.settings.completions_per_step
    made = f"for an update on {count} completions, without generating them (estimated, not measured{known})"
    return [f"about {planned.estimate.duration} {made}", f"  of it {planned.estimate}"]


def demand(planned: Plan) -> None:
    """Let a run begin only when its plan fits. Raises UserError with the table and what would help."""
    if planned.fits:
        return
    text = io.StringIO()
    Console(file=text, width=PIPED_WIDTH, highlight=False).print(_table(plan_grid(planned)))
    raise UserError("\n".join(["the model does not fit.", text.getvalue().rstrip(), *verdict(planned)]))


def warnings(shape: Shape, cards: Sequence[Card]) -> list[str]:
    """Warnings that the numbers do not show: an unknown model type, a card without bfloat16."""
    lines = []
    if not shape.is_known:
        lines.append(f"{shape.model_type} is not a model type that the planner knows: it is planned like a Llama")
    if len(cards) == 1 and not cards[0].has_bf16:
        lines.append(f"{cards[0].name} has no bfloat16: 16 bit means float16 with loss scaling there")
    return lines


def card_named(name: str | None, vram_gib: float | None) -> Card | None:
    """The card that the options name; None without any. Raises UserError."""
    if name is not None and vram_gib is not None:
        raise UserError("give --card or --vram-gib, not both")
    if vram_gib is not None:
        return card_of_size(vram_gib)
    return find_card(name) if name is not None else None


def _show_all(console: Console, cards: Sequence[Card], context: int | None, settings: PlanSettings) -> bool:
    if context is not None:
        raise UserError("--context needs a MODEL: without one, the longest context of each is shown")
    shapes = all_shapes()
    if not shapes:
        raise UserError("presets/shapes is missing here: run this in the project's folder, or name a model")
    console.print(_table(longest_grid(shapes, cards, settings)))
    console.print("(all): the model's own limit. –: fewer than 256 tokens fit. One model: rlvr plan MODEL --card CARD")
    console.print("Long contexts wait in the memory of the host, up to tens of GiB: rlvr plan MODEL says how much.")
    console.print("rule of thumb: 1 GB per billion weights for QLoRA, 4 GB for 16-bit LoRA, whatever the context")
    return True


def _beyond(shape: Shape, context: int) -> str:
    limit = shape.max_position_embeddings
    return (
        f"does not fit: {shape.name} reads at most {limit:,} tokens (max_position_embeddings), and --context is "
        f"{context:,}\n  try --context {limit}\n  try a model for longer texts"
    )


def _show_plan(console: Console, planned: Plan) -> None:
    console.print(_table(plan_grid(planned)))
    for line in verdict(planned):
        console.print(line)
    if planned.shape.name == "Llama-3.1-8B" and planned.settings.quantization == "nf4":
        console.print(_table(published_grid(planned.shape, planned.settings)))


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left")
    for i, name in enumerate(grid.header):
        is_prose = i == 0 or any(len(row[i]) > LONGEST_NUMBER for row in grid.rows)
        table.add_column(name, justify="left" if is_prose else "right")
    for row in grid.rows:
        table.add_row(*row)
    return table
