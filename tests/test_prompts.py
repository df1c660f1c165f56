"""Which items a step draws."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rlvr.prompts import draw


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_every_epoch_holds_every_item_once(size: int, count: int, seed: int) -> None:
    steps = -(-3 * size // count)
    stream = [item for step in range(steps) for item in draw(range(size), count, step=step, seed=seed)]
    for epoch in range(3):
        assert Counter(stream[epoch * size : (epoch + 1) * size]) == Counter(range(size))


@given(st.integers(0, 100), st.integers(0, 5))
def test_a_step_needs_no_memory_of_the_ones_before(step: int, seed: int) -> None:
    items = [f"problem {i}" for i in range(17)]
    found = draw(items, 5, step=step, seed=seed)
    draw(items, 5, step=step + 3, seed=seed + 1)
    assert draw(items, 5, step=step, seed=seed) == found


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [draw(range(50), 50, step=epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert len(set(map(tuple, orders))) == 9
    assert list(range(50)) not in orders
