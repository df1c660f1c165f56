"""Fit a run to a card: what to choose, the longest context, and what to change when nothing fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from rlvr.plan.cards import GIB, Card
from rlvr.plan.predict import Prediction, predict
from rlvr.plan.settings import Choice, PlanSettings, check, input_tokens
from rlvr.plan.shapes import Shape

ENOUGH_TOKENS = 8192  # in a micro-batch: more makes nothing faster
TILES = ((4096, 1024), (2048, 512), (1024, 256))  # rows of the feed-forward and of the head, nearly free to make small
CONTEXT_STEP = 256


@dataclass(frozen=True)
class Plan:
    """A run on a card: the best choice that fits, or the thriftiest one where none does."""

    shape: Shape
    settings: PlanSettings
    card: Card
    choice: Choice
    prediction: Prediction
    remedies: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return fits(self.prediction, self.settings, self.card, tuple(self.prediction.phases))

    @property
    def tokens_per_micro_batch(self) -> int:
        return input_tokens(self.settings, self.choice)


def plan(shape: Shape, settings: PlanSettings, card: Card, others: Sequence[Shape]) -> Plan:
    """The best choice for `card`; where none fits, remedies with numbers, among them a smaller one of `others`.

    Raises UserError for settings that contradict each other.
    """
    check(settings)
    choice = choose(shape, settings, card)
    if choice is not None:
        return Plan(shape, settings, card, choice, predict(shape, settings, choice), ())
    thriftiest = _thriftiest(shape, settings)
    return Plan(
        shape, settings, card, thriftiest, predict(shape, settings, thriftiest),
        tuple(remedies(shape, settings, card, others)),
    )  # fmt: skip


def choose(shape: Shape, settings: PlanSettings, card: Card) -> Choice | None:
    """The first choice that fits, in the order of what it costs in time; None where none does.

    For the update: as many sequences as make 8,192 tokens, then fewer; before fewer, offload the layer inputs (about
    1 %); before that, the optimizer's states wait on the host between steps; before that, smaller tiles and chunks
    (nearly nothing). Only where none of that fits with prompts computed once, all of it with prompts computed again in
    each micro-batch. For the rollout: all completions of a group at once, then half of them, and so on; before half,
    the optimizer's states wait on the host.
    """
    update = _first(_update_choices(settings), ("head", "backward", "optimizer"), shape, settings, card)
    if update is None:
        return None
    return _first(_rollout_choices(settings, update), ("load", "rollout"), shape, settings, card)


def longest_context(shape: Shape, settings: PlanSettings, card: Card) -> int:
    """The longest sequence, prompt included, for which something fits; in steps of 256 tokens, 0 where nothing does.

    It ends at what the model was made for.
    """

    def has_choice(steps: int) -> bool:
        return choose(shape, with_context(settings, steps * CONTEXT_STEP), card) is not None

    return CONTEXT_STEP * _largest(has_choice, shape.max_position_embeddings // CONTEXT_STEP)


def least_bytes(shape: Shape, settings: PlanSettings) -> int:
    """The smallest memory of a card on which the run fits: its peak with the thriftiest choice."""
    return predict(shape, settings, _thriftiest(shape, settings)).peak_bytes


def with_context(settings: PlanSettings, tokens: int) -> PlanSettings:
    """The same run with sequences of `tokens`; the prompt keeps its length, up to half of them."""
    prompt = min(settings.prompt_tokens, tokens // 2)
    return replace(settings, prompt_tokens=prompt, completion_tokens=max(1, tokens - prompt))


def fits(prediction: Prediction, settings: PlanSettings, card: Card, phases: Sequence[str]) -> bool:
    """Whether the card holds `phases`, and the host what is moved to it."""
    fits_host = settings.host_bytes is None or prediction.host_bytes <= settings.host_bytes
    return fits_host and all(prediction.device_bytes(phase) <= card.memory_bytes for phase in phases)


def _first(
    choices: Iterator[Choice], phases: Sequence[str], shape: Shape, settings: PlanSettings, card: Card
) -> Choice | None:
    for choice in choices:
        if fits(predict(shape, settings, choice), settings, card, phases):
            return choice
    return None


def _update_choices(settings: PlanSettings) -> Iterator[Choice]:
    enough = max(1, (ENOUGH_TOKENS - settings.prompt_tokens) // settings.completion_tokens)
    for share_prompts in (True, False):
        for sequences in halves(min(settings.completions, enough)):
            for offload, states_on_host in product(_places(settings), _places_of_states(settings)):
                for tile_rows, head_rows in TILES:
                    yield Choice(
                        sequences=sequences, share_prompts=share_prompts, offload=offload, tile_rows=tile_rows,
                        head_rows=head_rows, kv_sequences=1, states_on_host=states_on_host,
                    )  # fmt: skip


def _rollout_choices(settings: PlanSettings, update: Choice) -> Iterator[Choice]:
    for kv_sequences in halves(settings.completions_per_step):
        for states_on_host in (True,) if update.states_on_host else _places_of_states(settings):
            yield replace(update, kv_sequences=kv_sequences, states_on_host=states_on_host)


def _places(settings: PlanSettings) -> tuple[bool, ...]:
    """Whether something may go to the host: on a CPU it is on the host already."""
    return (False, True) if settings.is_cuda else (False,)


def _places_of_states(settings: PlanSettings) -> tuple[bool, ...]:
    return _places(settings) if settings.states_on_host is None else (settings.states_on_host,)


def _thriftiest(shape: Shape, settings: PlanSettings) -> Choice:
    """The smallest of everything, but for two things that may need more than they save: keys of a prompt that is
    computed once, and weights that are unpacked for several small tiles.
    """
    *_, update = _update_choices(settings)
    *_, choice = _rollout_choices(settings, update)
    choices = [
        replace(choice, share_prompts=share_prompts, tile_rows=tile_rows)
        for share_prompts in (True, False)
        for tile_rows, _ in TILES
    ]
    return min(choices, key=lambda choice: predict(shape, settings, choice).peak_bytes)


def halves(count: int) -> Iterator[int]:
    """count, half of it, and so on to 1."""
    while count >= 1:
        yield count
        count //= 2


def _largest(holds: Callable[[int], bool], limit: int) -> int:
    """The largest n from 0 to `limit` for which `holds`, which must hold up to some n and not beyond."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def remedies(shape: Shape, settings: PlanSettings, card: Card, others: Sequence[Shape]) -> Iterator[str]:
    """What would make it fit, in the order in which it hurts least."""
    thrifty = settings
    if settings.quantization == "none":
        size = 2 if settings.is_cuda else settings.weight_bytes
        thrifty = replace(settings, method="lora", quantization="nf4", optimizer="adamw_8bit", weight_bytes=size)
        yield f"a LoRA adapter on 4-bit weights (nf4), 8-bit optimizer: {_needs(shape, thrifty, card)}"
    longest = longest_context(shape, thrifty, card)
    if 0 < longest < settings.context:
        yield f"a shorter context: {longest:,} tokens fit{_with_nf4(settings)}"
    for rank in [rank for rank in (16, 8, 4) if rank < settings.rank and settings.context > longest]:
        smaller = replace(thrifty, rank=rank)
        if choose(shape, smaller, card) is not None:
            yield f"a smaller rank: {rank} fits{_with_nf4(settings)}"
            break
    if settings.host_bytes is not None and choose(shape, replace(settings, host_bytes=None), card) is not None:
        host = predict(shape, settings, _thriftiest(shape, settings)).host_bytes
        yield f"more host memory: {host / GIB:.1f} GiB instead of {settings.host_bytes / GIB:.1f}"
    smaller_models = [other for other in others if other.parameters() < shape.parameters()]
    for other in sorted(smaller_models, key=Shape.parameters, reverse=True):
        if other.max_position_embeddings >= settings.context and choose(other, thrifty, card) is not None:
            yield f"a smaller model: {other.name} fits{_with_nf4(settings)}"
            break


def _needs(shape: Shape, settings: PlanSettings, card: Card) -> str:
    if (choice := choose(shape, settings, card)) is not None:
        return f"fits, in {predict(shape, settings, choice).peak_bytes / GIB:.1f} GiB"
    return f"needs {least_bytes(shape, settings) / GIB:.1f} GiB, still too much"


def _with_nf4(settings: PlanSettings) -> str:
    return ", with nf4" if settings.quantization == "none" else ""
