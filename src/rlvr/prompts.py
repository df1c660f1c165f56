"""Which prompts a step draws: a function of step and seed, so that a resumed run needs no memory of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def draw(items: Sequence[T], count: int, *, step: int, seed: int) -> list[T]:
    """Items number step·count to (step+1)·count of an endless stream of shuffled epochs."""
    first = step * count
    return [items[_order(len(items), i // len(items), seed)[i % len(items)]] for i in range(first, first + count)]


@lru_cache(maxsize=2)
def _order(size: int, epoch: int, seed: int) -> list[int]:
    order = list(range(size))
    random.Random(f"epoch {seed} {epoch}").shuffle(order)
    return order
