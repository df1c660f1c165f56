"""The model of torch's caching allocator: what holds for any order of tensors, and sizes that torch documents."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SUITE = Path(__file__).parents[2] / "benchmarks/gpu"
KIB, MIB = 2**10, 2**20
SIZES = st.one_of(st.integers(1, 4 * KIB), st.integers(1, 3 * MIB), st.integers(1, 64 * MIB))
STEPS = st.lists(st.tuples(st.booleans(), SIZES, st.integers(0, 2**16)), max_size=60)  # whether to take, size, which


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SUITE)
        yield importlib.import_module("allocator")


def check(allocator: Any, wanted: dict[int, int]) -> None:
    """Every byte of every segment belongs to one block, and free neighbours are one."""
    free = [block for pool in allocator.pools.values() for block in pool.blocks.values()]
    used = list(allocator.used.values())
    assert allocator.allocated == sum(block.size for block in used) <= allocator.reserved
    assert allocator.reserved == sum(block.size for block in (*free, *used))
    assert all(allocator.used[number].size >= size for number, size in wanted.items())
    segments = defaultdict(list)
    for block in (*free, *used):
        segments[block.is_small, block.segment].append(block)
    for blocks in segments.values():
        for left, right in pairwise(sorted(blocks, key=lambda block: block.start)):
            assert left.start + left.size <= right.start
            assert not (left.is_free and right.is_free and left.start + left.size == right.start)


@pytest.mark.parametrize("is_expandable", [False, True])
@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
def test_blocks_never_overlap_and_all_comes_back(module: Any, is_expandable: bool, steps: Any) -> None:
    allocator = module.Allocator(is_expandable=is_expandable)
    wanted: dict[int, int] = {}
    for number, (takes, size, which) in enumerate(steps):
        if takes or not wanted:
            allocator.take(number, size)
            wanted[number] = size
        else:
            given_back = sorted(wanted)[which % len(wanted)]
            allocator.give(given_back)
            del wanted[given_back]
        check(allocator, wanted)
    assert allocator.peak_allocated <= allocator.peak_reserved
    for number in wanted:
        allocator.give(number)
    check(allocator, {})
    assert allocator.allocated == 0
    allocator.empty()
    assert allocator.reserved == 0


@pytest.mark.parametrize("is_expandable", [False, True])
@settings(max_examples=50, deadline=None)
@given(steps=STEPS)
def test_it_works_on_after_its_cache_is_emptied(module: Any, is_expandable: bool, steps: Any) -> None:
    allocator = module.Allocator(is_expandable=is_expandable)
    wanted: dict[int, int] = {}
    for number, (keeps, size, _) in enumerate(steps):
        allocator.take(number, size)
        if keeps:
            wanted[number] = size
        else:
            allocator.give(number)
        if number % 7 == 3:
            allocator.empty()
        check(allocator, wanted)


@pytest.mark.parametrize(
    ("size", "is_expandable", "allocated", "reserved"),
    [
        (1, False, 512, 2 * MIB),
        (MIB, False, MIB, 2 * MIB),
        (MIB + 1, False, MIB + 512, 20 * MIB),
        (9 * MIB, False, 9 * MIB, 20 * MIB),
        (31 * MIB, False, 32 * MIB, 32 * MIB),  # what is left of a segment is too small to split
        (31 * MIB, True, 31 * MIB, 40 * MIB),
        (1, True, 512, 2 * MIB),
    ],
)
def test_what_one_tensor_takes(module: Any, size: int, is_expandable: bool, allocated: int, reserved: int) -> None:
    allocator = module.Allocator(is_expandable=is_expandable)
    allocator.take(0, size)
    assert (allocator.allocated, allocator.reserved) == (allocated, reserved)


def test_expandable_segments_join_what_fixed_ones_leave_in_pieces(module: Any) -> None:
    changes = [(0, 12 * MIB), (1, 12 * MIB), (0, 0), (1, 0), (2, 24 * MIB)]
    reserved = [
        module.replayed(changes, is_expandable=is_expandable, emptied_at=-1).peak_reserved
        for is_expandable in (False, True)
    ]
    assert reserved == [48 * MIB, 40 * MIB]
