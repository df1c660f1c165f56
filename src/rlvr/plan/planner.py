"""Fit a run to a card: what to choose, the longest context, and what to change when nothing fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from rlvr.plan.cards import GIB, Card
from rlvr.plan.predict import PHASES, Prediction, kv_cache_bytes, predict
from rlvr.plan.settings import Choice, PlanSettings, check, input_tokens
from rlvr.plan.shapes import Shape
from rlvr.plan.work import Estimate, rollout_seconds, update_estimate

MOST_TOKENS = 16_384  # in a micro-batch: what more of them gains is not worth their memory
TILES = ((4096, 1024), (2048, 512), (1024, 256))  # rows of the feed-forward and of the head
FEW_LOGITS = ((4096, 256), (2048, 256))  # for small cards, where small tiles need more: their weights stay unpacked
CONTEXT_STEP = 256
BLOCK_TOKENS = 128  # the largest unit in which engines hand their cache out
HOST_SHARE = 4  # of a host's memory, the cache takes one part in so many at most: other programs live there, too


@dataclass(frozen=True)
class Plan:
    """A run on a card: the fastest choice that fits, or the thriftiest one where none does."""

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

    @property
    def estimate(self) -> Estimate:
        """The estimated time of an update."""
        return update_estimate(self.shape, self.settings, self.choice, self.card)


def plan(shape: Shape, settings: PlanSettings, card: Card, others: Sequence[Shape]) -> Plan:
    """The fastest choice for `card`; where none fits, remedies with numbers, among them a smaller one of `others`.

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
    """The fastest choice that fits, by the estimate of rlvr.plan.work; None where none fits.

    Of equally fast ones, that with the least memory. The update and the rollout need the card one after the other, so
    each gets its own; whether the optimizer's states wait on the host is decided for both.
    """
    choices = [
        choice for on_host in _places_of_states(settings) if (choice := _fastest(shape, settings, card, on_host))
    ]
    return min(choices, default=None, key=partial(cost, shape, settings, card))


def cost(shape: Shape, settings: PlanSettings, card: Card, choice: Choice) -> tuple[float, int]:
    """What is made small: estimated seconds of rollout and update, then bytes of card and host."""
    prediction = predict(shape, settings, choice)
    seconds = update_estimate(shape, settings, choice, card).seconds + rollout_seconds(shape, settings, choice, card)
    return seconds, prediction.peak_bytes + prediction.host_bytes


def has_choice(shape: Shape, settings: PlanSettings, card: Card) -> bool:
    """Whether anything fits: then single sequences do."""
    for on_host in _places_of_states(settings):
        single = (choice for choice in update_choices(settings, on_host, (1,)) if not choice.keep_attention)
        if any(fits(predict(shape, settings, choice), settings, card, PHASES) for choice in single):
            return True
    return False


def longest_context(shape: Shape, settings: PlanSettings, card: Card) -> int:
    """The longest sequence, prompt included, for which something fits; in steps of 256 tokens, 0 where nothing does.

    It ends at what the model was made for.
    """

    def holds(steps: int) -> bool:
        return has_choice(shape, with_context(settings, steps * CONTEXT_STEP), card)

    return CONTEXT_STEP * _largest(holds, shape.max_position_embeddings // CONTEXT_STEP)


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


def _fastest(shape: Shape, settings: PlanSettings, card: Card, states_on_host: bool) -> Choice | None:
    """The fastest update that fits, and with it the largest rollout that does, which is the fastest."""

    def fitting(choices: Iterable[Choice], *phases: str) -> list[Choice]:
        return [x for x in choices if fits(predict(shape, settings, x), settings, card, phases)]

    updates = fitting(
        update_choices(settings, states_on_host, _shares(settings)), "load", "head", "backward", "optimizer"
    )
    if not updates:
        return None
    update = min(updates, key=partial(cost, shape, settings, card))
    rollouts = (replace(update, kv_sequences=count) for count in halves(settings.completions_per_step))
    return next(iter(fitting(rollouts, "rollout")), None)


def update_choices(settings: PlanSettings, states_on_host: bool, shares: Iterable[int]) -> Iterator[Choice]:
    """Every update that is considered, with so many sequences in a micro-batch."""
    places = _places(settings)
    for sequences, share_prompts, offload, keeps in product(shares, (True, False), places, places):
        for tile_rows, head_rows in (*TILES, *FEW_LOGITS):
            yield Choice(
                sequences=sequences, share_prompts=share_prompts, offload=offload, tile_rows=tile_rows,
                head_rows=head_rows, kv_sequences=1, states_on_host=states_on_host, keep_attention=keeps,
            )  # fmt: skip


def _shares(settings: PlanSettings) -> list[int]:
    """Completions of a group in a micro-batch: all, half, and so on, but for more than MOST_TOKENS."""
    most = (MOST_TOKENS - settings.prompt_tokens) // settings.completion_tokens
    return [count for count in halves(settings.completions) if count <= max(1, most)]


def _places(settings: PlanSettings) -> tuple[bool, ...]:
    """Whether something may go to the host: on a CPU it is on the host already."""
    return (False, True) if settings.is_cuda else (False,)


def _places_of_states(settings: PlanSettings) -> tuple[bool, ...]:
    return _places(settings) if settings.states_on_host is None else (settings.states_on_host,)


def _thriftiest(shape: Shape, settings: PlanSettings) -> Choice:
    """That with the smallest peak, one sequence and one completion at a time."""
    choices = update_choices(settings, _places_of_states(settings)[-1], (1,))
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


def engine_cache_bytes(plan: Plan, *, rows: int) -> int:
    """Room for the keys and values of `rows` sequences, as far as the plan's rollout leaves it.

    At least one sequence: a plan that fits has room for that.
    """
    blocks = -(-plan.settings.context // BLOCK_TOKENS)
    sequence_bytes = blocks * BLOCK_TOKENS * plan.shape.kv_bytes_per_token(plan.settings.cached_bytes)
    planned = kv_cache_bytes(plan.shape, plan.settings, plan.choice.kv_sequences)
    free = plan.card.memory_bytes - plan.prediction.device_bytes("rollout") + planned
    if not plan.settings.is_cuda:
        free = min(free, plan.card.memory_bytes // HOST_SHARE)
    return max(sequence_bytes, min(rows * sequence_bytes, free))


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
        if has_choice(shape, smaller, card):
            yield f"a smaller rank: {rank} fits{_with_nf4(settings)}"
            break
    if settings.host_bytes is not None and has_choice(shape, replace(settings, host_bytes=None), card):
        host = predict(shape, settings, _thriftiest(shape, settings)).host_bytes
        yield f"more host memory: {host / GIB:.1f} GiB instead of {settings.host_bytes / GIB:.1f}"
    smaller_models = [other for other in others if other.parameters() < shape.parameters()]
    for other in sorted(smaller_models, key=Shape.parameters, reverse=True):
        if other.max_position_embeddings >= settings.context and has_choice(other, thrifty, card):
            yield f"a smaller model: {other.name} fits{_with_nf4(settings)}"
            break


def _needs(shape: Shape, settings: PlanSettings, card: Card) -> str:
    if (choice := choose(shape, settings, card)) is not None:
        return f"fits, in {predict(shape, settings, choice).peak_bytes / GIB:.1f} GiB"
    return f"needs {least_bytes(shape, settings) / GIB:.1f} GiB, still too much"


def _with_nf4(settings: PlanSettings) -> str:
    return ", with nf4" if settings.quantization == "none" else ""
