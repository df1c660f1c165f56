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
    """Items step·count to (step+1)·count of an endless stream of shuffled epochs."""
    return [items[i] for i in _indices(len(items), count, step, seed)]


def spare(items: Sequence[T], count: int, *, step: int, seed: int) -> Iterator[T]:
    """Every item that `draw` leaves out in this step, once each, in an order that depends on the step."""
    indices = set(_indices(len(items), count, step, seed))
    others = [i for i in range(len(items)) if i not in indices]
    random.Random(f"spare {seed} {step}").shuffle(others)
    yield from (items[i] for i in others)


def _indices(size: int, count: int, step: int, seed: int) -> list[int]:
    first = step * count
    return [_order(size, i // size, seed)[i % size] for i in range(first, first + count)]


@lru_cache(maxsize=2)
def _order(size: int, epoch: int, seed: int) -> list[int]:
    order = list(range(size))
    random.Random(f"epoch {seed} {epoch}").shuffle(order)
    return order
