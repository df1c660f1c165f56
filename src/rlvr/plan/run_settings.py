"""The settings that a run has, checked against a card before its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rlvr.plan.cards import GIB, Card
from rlvr.plan.planner import TILES, Plan, fits, halves, remedies
from rlvr.plan.predict import Prediction, predict
from rlvr.plan.settings import Choice, PlanSettings, check, group_tokens
from rlvr.plan.shapes import Shape
from rlvr.types import UserError

FEWEST_TOKENS = 1024  # of a micro-batch, before layers are recomputed for memory's sake
KEYS = {
    "tokens_per_micro_batch": "memory.tokens_per_micro_batch",
    "tile_rows": "memory.tile_rows",
    "offload": "memory.offload",
    "keep_attention": "memory.keep_attention",
    "head_rows": "memory.logit_chunk_rows",
    "max_rows": "rollout.max_rows",
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What params.yaml says of memory, every null and auto resolved but `tile_rows`: None recomputes nothing.

    `minibatch` is the number of completions of an optimizer step.
    """

    tokens_per_micro_batch: int
    share_prompts: bool
    tile_rows: int | None
    offload: bool
    keep_attention: bool
    head_rows: int
    max_rows: int
    minibatch: int


def plan_run(shape: Shape, settings: PlanSettings, run: RunSettings, card: Card, others: Sequence[Shape]) -> Plan:
    """Plan the run with its configured settings.

    If other values would fit, raise UserError naming them; if nothing fits, return the failing plan with remedies.
    """
    check(settings)
    configured = _plan(shape, settings, run, card)
    if configured.fits:
        return configured
    tried = run
    for tried in _thriftier_updates(run, settings):
        if _fits(shape, settings, tried, card, ("load", "head", "backward", "optimizer")):
            break
    for rollout in _thriftier_rollouts(tried, settings):
        plan = _plan(shape, settings, rollout, card)
        if plan.fits:
            raise UserError(_advice(configured, plan, run, rollout))
    return replace(plan, remedies=(*_fewer_completions(shape, settings, rollout, card),
                                    *remedies(shape, replace(settings, recompute="tiles"), card, others)))  # fmt: skip


def plan_sampling_run(shape: Shape, settings: PlanSettings, max_rows: int, card: Card, others: Sequence[Shape]) -> Plan:
    """The same for a run that only samples, with at most `max_rows` completions at once."""
    run = RunSettings(
        tokens_per_micro_batch=1,
        share_prompts=False,
        tile_rows=TILES[-1][0],
        offload=False,
        keep_attention=False,
        head_rows=1,
        max_rows=max_rows,
        minibatch=1,
    )
    configured = _sampling_plan(shape, settings, run, card)
    if configured.fits:
        return configured
    for rollout in _thriftier_rollouts(run, settings):
        plan = _sampling_plan(shape, settings, rollout, card)
        if plan.fits:
            raise UserError(_advice(configured, plan, run, rollout))
    return replace(plan, remedies=tuple(remedies(shape, settings, card, others)))


def choice_of(run: RunSettings, settings: PlanSettings) -> Choice:
    """What `run` makes of a run: completions of a full micro-batch, and of a rollout's batch."""
    max_rows = run.max_rows
    if settings.engine == "native":  # it takes whole groups
        max_rows = max(1, max_rows // settings.completions) * settings.completions
    return Choice(
        sequences=min(_sequences_within(run, settings), run.minibatch),
        share_prompts=run.share_prompts,
        offload=run.offload and settings.is_cuda,  # on a CPU they stay in the same memory
        tile_rows=run.tile_rows or TILES[0][0], head_rows=run.head_rows,
        kv_sequences=min(settings.completions_per_step, max_rows), states_on_host=bool(settings.states_on_host),
        keep_attention=run.keep_attention and run.tile_rows is not None,
    )  # fmt: skip


def _plan(shape: Shape, settings: PlanSettings, run: RunSettings, card: Card) -> Plan:
    settings = _recomputing(settings, run)
    choice = _with_cache(shape, settings, choice_of(run, settings), card)
    return Plan(shape, settings, card, choice, predict(shape, settings, choice), ())


def _sampling_plan(shape: Shape, settings: PlanSettings, run: RunSettings, card: Card) -> Plan:
    choice = replace(choice_of(run, settings), states_on_host=True)  # there are none
    choice = _with_cache(shape, settings, choice, card)
    return Plan(shape, settings, card, choice, predict(shape, settings, choice).only("load", "rollout"), ())


def _with_cache(shape: Shape, settings: PlanSettings, choice: Choice, card: Card) -> Choice:
    """`choice` with as many completions at once as an engine finds room for, which lets the others wait."""
    if settings.engine == "native":
        return choice
    for count in halves(choice.kv_sequences):
        choice = replace(choice, kv_sequences=count)
        if fits(predict(shape, settings, choice), settings, card, ("rollout",)):
            break
    return choice


def _fits(shape: Shape, settings: PlanSettings, run: RunSettings, card: Card, phases: Sequence[str]) -> bool:
    settings = _recomputing(settings, run)
    return fits(predict(shape, settings, choice_of(run, settings)), settings, card, phases)


def _recomputing(settings: PlanSettings, run: RunSettings) -> PlanSettings:
    return replace(settings, recompute="none" if run.tile_rows is None else "tiles")


def _sequences_within(run: RunSettings, settings: PlanSettings) -> int:
    """Completions of full length that a micro-batch takes, with the prompts that are in it; at least 1."""
    tokens = run.tokens_per_micro_batch
    groups, rest = divmod(tokens, group_tokens(settings, settings.completions))
    if groups == 0 and run.share_prompts:
        return max(1, tokens // settings.completion_tokens)
    return max(1, groups * settings.completions + max(0, rest - settings.prompt_tokens) // settings.completion_tokens)


def _thriftier_updates(run: RunSettings, settings: PlanSettings) -> Iterator[RunSettings]:
    """In the order of what they cost in time: attention computed again, smaller micro-batches, then layers recomputed,
    offload, single ones.
    """
    if run.keep_attention:
        run = replace(run, keep_attention=False)
        yield run
    single = group_tokens(settings, 1)
    budgets = [n for n in halves(run.tokens_per_micro_batch) if n >= max(FEWEST_TOKENS, single)] or [single]
    tiles = [pair for pair in TILES if run.tile_rows is None or pair[0] < run.tile_rows]
    if run.tile_rows is None:
        yield from (replace(run, tokens_per_micro_batch=tokens) for tokens in budgets)
    for tokens in dict.fromkeys([*budgets, *(n for n in halves(budgets[-1]) if n > single), single]):
        for offload in (run.offload, True) if settings.is_cuda and not run.offload else (run.offload,):
            for tile_rows, head_rows in [(run.tile_rows or TILES[0][0], run.head_rows), *tiles]:
                yield replace(
                    run, tokens_per_micro_batch=tokens, offload=offload, tile_rows=tile_rows,
                    head_rows=min(run.head_rows, head_rows),
                )  # fmt: skip


def _thriftier_rollouts(run: RunSettings, settings: PlanSettings) -> Iterator[RunSettings]:
    yield run
    for rows in halves(min(run.max_rows, settings.completions_per_step)):
        if rows >= settings.completions:
            yield replace(run, max_rows=rows)


def _fewer_completions(shape: Shape, settings: PlanSettings, run: RunSettings, card: Card) -> Iterator[str]:
    """For a native rollout whose single group is too much."""
    for completions in halves(settings.completions // 2):
        fewer = replace(settings, completions=completions)
        if completions > 1 and _plan(shape, fewer, replace(run, max_rows=completions), card).fits:
            yield f"fewer completions for each prompt: {completions} fit (grpo.completions_per_prompt)"
            return


def _advice(configured: Plan, fits: Plan, run: RunSettings, fitting: RunSettings) -> str:
    """What the run needs, what the card has, and the values that would fit."""
    changes = [
        f"{KEYS[name]} {_spelled(getattr(run, name))} → {_spelled(getattr(fitting, name))}"
        for name in KEYS
        if getattr(run, name) != getattr(fitting, name)
    ]
    return (
        f"this run does not fit: {_peak(configured.prediction)}, {configured.card.name} has "
        f"{configured.card.memory_bytes / GIB:.1f} GiB. Settings that fit ({_peak(fits.prediction)}): "
        f"{', '.join(changes)}"
    )


def _peak(prediction: Prediction) -> str:
    return f"the {prediction.peak_phase} phase needs {prediction.peak_bytes / GIB:.1f} GiB"


def _spelled(value: int | bool | None) -> str:
    return {None: "null", True: "on", False: "off"}[value] if value is None or isinstance(value, bool) else str(value)
