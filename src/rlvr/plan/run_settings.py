"""The settings that a run really has, held against a card before its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rlvr.plan.cards import GIB, Card
from rlvr.plan.planner import TILES, Plan, fits, halves, remedies
from rlvr.plan.predict import Prediction, predict
from rlvr.plan.settings import Choice, Settings, check, group_tokens
from rlvr.plan.shapes import Shape
from rlvr.types import UserError

FEWEST_TOKENS = 1024  # of a micro-batch, before layers are recomputed for memory's sake
KEYS = {
    "tokens_per_micro_batch": "memory.tokens_per_micro_batch",
    "tile_rows": "memory.tile_rows",
    "offload": "memory.offload",
    "head_rows": "memory.logit_chunk_rows",
    "max_rows": "rollout.max_rows",
}


@dataclass(frozen=True, kw_only=True)
class Own:
    """What params.yaml says of memory, every null and auto resolved but `tile_rows`: None recomputes nothing.

    `minibatch` is the number of completions of an optimizer step.
    """

    tokens_per_micro_batch: int
    share_prompts: bool
    tile_rows: int | None
    offload: bool
    head_rows: int
    max_rows: int
    minibatch: int


def hold(shape: Shape, settings: Settings, own: Own, card: Card, others: Sequence[Shape]) -> Plan:
    """The plan of a run with its own settings; where no values of theirs fit, one that does not, with remedies.

    Raises UserError with values that fit where only those of the run do not.
    """
    check(settings)
    asked = _plan(shape, settings, own, card)
    if asked.fits:
        return asked
    tried = own
    for tried in _thriftier_updates(own, settings):
        if _fits(shape, settings, tried, card, ("load", "head", "backward", "optimizer")):
            break
    for rollout in _thriftier_rollouts(tried, settings):
        found = _plan(shape, settings, rollout, card)
        if found.fits:
            raise UserError(_advice(asked, found, own, rollout))
    return replace(found, remedies=(*_fewer_completions(shape, settings, rollout, card),
                                    *remedies(shape, replace(settings, recompute="tiles"), card, others)))  # fmt: skip


def hold_sampling(shape: Shape, settings: Settings, max_rows: int, card: Card, others: Sequence[Shape]) -> Plan:
    """The same for a run that only samples, with at most `max_rows` completions at once."""
    own = Own(
        tokens_per_micro_batch=1,
        share_prompts=False,
        tile_rows=TILES[-1][0],
        offload=False,
        head_rows=1,
        max_rows=max_rows,
        minibatch=1,
    )
    asked = _sampling_plan(shape, settings, own, card)
    if asked.fits:
        return asked
    for rollout in _thriftier_rollouts(own, settings):
        found = _sampling_plan(shape, settings, rollout, card)
        if found.fits:
            raise UserError(_advice(asked, found, own, rollout))
    return replace(found, remedies=tuple(remedies(shape, settings, card, others)))


def choice_of(own: Own, settings: Settings) -> Choice:
    """What `own` makes of a run: completions of a full micro-batch, and of a rollout's batch."""
    max_rows = own.max_rows
    if settings.engine == "native":  # it takes whole groups
        max_rows = max(1, max_rows // settings.completions) * settings.completions
    return Choice(
        sequences=min(_sequences_within(own, settings), own.minibatch),
        share_prompts=own.share_prompts,
        offload=own.offload and settings.is_cuda,  # on a CPU they stay in the same memory
        tile_rows=own.tile_rows or TILES[0][0], head_rows=own.head_rows,
        kv_sequences=min(settings.completions_per_step, max_rows), states_on_host=bool(settings.states_on_host),
    )  # fmt: skip


def _plan(shape: Shape, settings: Settings, own: Own, card: Card) -> Plan:
    mine = _recomputing(settings, own)
    choice = _with_cache(shape, mine, choice_of(own, settings), card)
    return Plan(shape, mine, card, choice, predict(shape, mine, choice), ())


def _sampling_plan(shape: Shape, settings: Settings, own: Own, card: Card) -> Plan:
    choice = replace(choice_of(own, settings), states_on_host=True)  # there are none
    choice = _with_cache(shape, settings, choice, card)
    return Plan(shape, settings, card, choice, predict(shape, settings, choice).only("load", "rollout"), ())


def _with_cache(shape: Shape, settings: Settings, choice: Choice, card: Card) -> Choice:
    """`choice` with as many completions at once as an engine finds room for, which lets the others wait."""
    if settings.engine == "native":
        return choice
    for count in halves(choice.kv_sequences):
        choice = replace(choice, kv_sequences=count)
        if fits(predict(shape, settings, choice), settings, card, ("rollout",)):
            break
    return choice


def _fits(shape: Shape, settings: Settings, own: Own, card: Card, phases: Sequence[str]) -> bool:
    mine = _recomputing(settings, own)
    return fits(predict(shape, mine, choice_of(own, settings)), mine, card, phases)


def _recomputing(settings: Settings, own: Own) -> Settings:
    return replace(settings, recompute="none" if own.tile_rows is None else "tiles")


def _sequences_within(own: Own, settings: Settings) -> int:
    """Completions of full length that a micro-batch takes, with the prompts that are in it; at least 1."""
    tokens = own.tokens_per_micro_batch
    groups, rest = divmod(tokens, group_tokens(settings, settings.completions))
    if groups == 0 and own.share_prompts:
        return max(1, tokens // settings.completion_tokens)
    return max(1, groups * settings.completions + max(0, rest - settings.prompt_tokens) // settings.completion_tokens)


def _thriftier_updates(own: Own, settings: Settings) -> Iterator[Own]:
    """In the order of what they cost in time: smaller micro-batches, then layers recomputed, offload, single ones."""
    one = group_tokens(settings, 1)
    budgets = [n for n in halves(own.tokens_per_micro_batch) if n >= max(FEWEST_TOKENS, one)] or [one]
    tiles = [pair for pair in TILES if own.tile_rows is None or pair[0] < own.tile_rows]
    if own.tile_rows is None:
        yield from (replace(own, tokens_per_micro_batch=tokens) for tokens in budgets)
    for tokens in dict.fromkeys([*budgets, *(n for n in halves(budgets[-1]) if n > one), one]):
        for offload in (own.offload, True) if settings.is_cuda and not own.offload else (own.offload,):
            for tile_rows, head_rows in [(own.tile_rows or TILES[0][0], own.head_rows), *tiles]:
                yield replace(
                    own, tokens_per_micro_batch=tokens, offload=offload, tile_rows=tile_rows,
                    head_rows=min(own.head_rows, head_rows),
                )  # fmt: skip


def _thriftier_rollouts(own: Own, settings: Settings) -> Iterator[Own]:
    yield own
    for rows in halves(min(own.max_rows, settings.completions_per_step)):
        if rows >= settings.completions:
            yield replace(own, max_rows=rows)


def _fewer_completions(shape: Shape, settings: Settings, own: Own, card: Card) -> Iterator[str]:
    """For a native rollout whose single group is too much."""
    for completions in halves(settings.completions // 2):
        fewer = replace(settings, completions=completions)
        if completions > 1 and _plan(shape, fewer, replace(own, max_rows=completions), card).fits:
            yield f"fewer completions for each prompt: {completions} fit (grpo.completions_per_prompt)"
            return


def _advice(asked: Plan, found: Plan, own: Own, fitting: Own) -> str:
    """What the run needs, what the card has, and the values that would fit."""
    changes = [
        f"{KEYS[name]} {_spelled(getattr(own, name))} → {_spelled(getattr(fitting, name))}"
        for name in KEYS
        if getattr(own, name) != getattr(fitting, name)
    ]
    return (
        f"the run does not fit as params.yaml has it: {_peak(asked.prediction)}, and {asked.card.name} has "
        f"{asked.card.memory_bytes / GIB:.1f} GiB. These values fit ({_peak(found.prediction)}): {', '.join(changes)}"
    )


def _peak(prediction: Prediction) -> str:
    return f"{prediction.peak_phase} needs {prediction.peak_bytes / GIB:.1f} GiB"


def _spelled(value: int | bool | None) -> str:
    return {None: "null", True: "on", False: "off"}[value] if value is None or isinstance(value, bool) else str(value)
