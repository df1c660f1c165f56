"""Which items a step draws."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rlvr.problems.draw import draw, spare


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


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 20), st.integers(0, 5))
def test_spare_items_are_those_that_the_step_does_not_draw(size: int, count: int, step: int, seed: int) -> None:
    drawn = draw(range(size), count, step=step, seed=seed)
    others = list(spare(range(size), count, step=step, seed=seed))
    assert Counter(others) == Counter(set(range(size)) - set(drawn))
    assert others == list(spare(range(size), count, step=step, seed=seed))


def test_every_step_and_seed_has_spare_items_of_its_own() -> None:
    orders = [tuple(spare(range(50), 5, step=step, seed=seed)) for step in range(3) for seed in range(3)]
    assert len(set(orders)) == 9
    assert all(list(order) != sorted(order) for order in orders)
