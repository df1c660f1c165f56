"""Which items a step draws."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rlvr.problems.draw import draw, draw_distinct, spare


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


sizes = st.integers(1, 30).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))


@given(sizes, st.integers(0, 5))
def test_no_step_holds_an_item_twice_and_every_epoch_holds_each_once(sizes: tuple[int, int], seed: int) -> None:
    size, count = sizes
    steps = [draw_distinct(range(size), count, step=step, seed=seed) for step in range(4 * size // count)]
    assert all(len(set(items)) == count for items in steps)
    stream = [item for items in steps for item in items]
    for epoch in range(len(stream) // size):
        assert Counter(stream[epoch * size : (epoch + 1) * size]) == Counter(range(size))


@given(sizes, st.integers(0, 20), st.integers(0, 5))
def test_distinct_items_need_no_memory_either(sizes: tuple[int, int], step: int, seed: int) -> None:
    size, count = sizes
    found = draw_distinct(range(size), count, step=step, seed=seed)
    draw_distinct(range(size), count, step=step + 3, seed=seed)
    for other in range(3):
        draw_distinct(range(size + 1), 1, step=5, seed=other)
    assert draw_distinct(range(size), count, step=step, seed=seed) == found


def test_without_a_step_across_epochs_both_draw_the_same() -> None:
    """So it is in the default run: 32 prompts a step of 4000 problems."""
    for step in range(300):
        drawn = {"step": step, "seed": 0}
        assert draw(range(4000), 32, **drawn) == draw_distinct(range(4000), 32, **drawn)


@given(sizes, st.integers(0, 20), st.integers(0, 5))
def test_spare_items_are_those_that_the_step_does_not_draw(sizes: tuple[int, int], step: int, seed: int) -> None:
    size, count = sizes
    drawn = draw_distinct(range(size), count, step=step, seed=seed)
    others = list(spare(range(size), count, step=step, seed=seed))
    assert Counter(others) == Counter(set(range(size)) - set(drawn))
    assert others == list(spare(range(size), count, step=step, seed=seed))


def test_every_step_and_seed_has_spare_items_of_its_own() -> None:
    orders = [tuple(spare(range(50), 5, step=step, seed=seed)) for step in range(3) for seed in range(3)]
    assert len(set(orders)) == 9
    assert all(list(order) != sorted(order) for order in orders)
