"""Draw the prompts of a step as a function of step and seed, so that a resumed run needs no saved state for it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol, TypeVar

T = TypeVar("T")


class Duration(Protocol):
    @property
    def steps(self) -> int | None: ...
    @property
    def epochs(self) -> int | None: ...
    @property
    def prompts_per_step(self) -> int: ...


def num_steps(grpo: Duration, num_problems: int) -> int:
    """Steps of a run: `grpo.steps`, or as many as `grpo.epochs` passes over `num_problems` take."""
    if grpo.steps is not None:
        return grpo.steps
    assert grpo.epochs is not None
    return -(-grpo.epochs * num_problems // grpo.prompts_per_step)


def draw(items: Sequence[T], count: int, *, step: int, seed: int) -> list[T]:
    """Items step·count to (step+1)·count of an endless stream of shuffled epochs; two epochs may share an item."""
    first = step * count
    return [items[_order(len(items), i // len(items), seed)[i % len(items)]] for i in range(first, first + count)]


def draw_distinct(items: Sequence[T], count: int, *, step: int, seed: int) -> list[T]:
    """The same without an item twice: in a step that spans two epochs, the new one begins with what is not drawn yet.

    `count` is at most the number of items.
    """
    return [items[i] for i in _distinct(len(items), count, step, seed)]


def spare(items: Sequence[T], count: int, *, step: int, seed: int) -> Iterator[T]:
    """Every item that `draw_distinct` leaves out in this step, once each, in an order that depends on the step."""
    indices = set(_distinct(len(items), count, step, seed))
    others = [i for i in range(len(items)) if i not in indices]
    random.Random(f"spare {seed} {step}").shuffle(others)
    yield from (items[i] for i in others)


def _distinct(size: int, count: int, step: int, seed: int) -> list[int]:
    assert count <= size, f"{count} different ones of {size} items"
    stream = _stream(size, count, seed)
    first = step * count
    while len(stream) < first + count:
        begun = len(stream) % count  # items of the last step that the epoch before this one has drawn
        drawn = set(stream[len(stream) - begun :])
        order = _order(size, len(stream) // size, seed)
        head = [i for i in order if i not in drawn][: count - begun] if begun else []
        stream += [*head, *(i for i in order if i not in set(head))]
    return stream[first : first + count]


@lru_cache(maxsize=2)
def _stream(size: int, count: int, seed: int) -> list[int]:
    """The epochs drawn so far; _distinct appends to it."""
    return []


@lru_cache(maxsize=2)
def _order(size: int, epoch: int, seed: int) -> list[int]:
    order = list(range(size))
    random.Random(f"epoch {seed} {epoch}").shuffle(order)
    return order
