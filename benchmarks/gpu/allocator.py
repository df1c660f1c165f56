"""A model of torch's caching allocator: what it would hold of a card for the tensors that come and go.

c10/cuda/CUDACachingAllocator.cpp of torch 2.11 to 2.13: blocks of 512 bytes in a pool for small tensors and one for
large ones, the smallest free block that is large enough, neighbours that are free joined, segments kept. One stream,
and memory without end: what a second stream still reads, and what torch gives back before it runs out, is left out.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field

MIB = 2**20
SMALLEST = 512  # bytes of a block
SMALL, MIDDLE = MIB, 10 * MIB  # up to here from the pool of small blocks; up to here in segments of LARGE_SEGMENT
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB

Place = tuple[int, int, int]  # size, segment and start of a free block, in the order in which it is looked for


@dataclass(eq=False)
class Block:
    """A piece of a segment, between its neighbours `before` and `after`."""

    segment: int
    start: int
    size: int
    is_small: bool
    is_free: bool = True
    before: Block | None = None
    after: Block | None = None

    @property
    def place(self) -> Place:
        return self.size, self.segment, self.start


@dataclass
class Pool:
    """The free blocks for small or for large tensors, by size; `last` is the end of its expandable segment."""

    free: list[Place] = field(default_factory=list)
    blocks: dict[Place, Block] = field(default_factory=dict)
    last: Block | None = None

    def add(self, block: Block) -> None:
        block.is_free = True
        bisect.insort(self.free, block.place)
        self.blocks[block.place] = block

    def remove(self, block: Block) -> None:
        self.free.pop(bisect.bisect_left(self.free, block.place))
        del self.blocks[block.place]

    def smallest(self, size: int) -> Block | None:
        """The smallest free block of `size` or more; the end of an expandable segment only where no other is left."""
        first = bisect.bisect_left(self.free, (size, 0, 0))
        found = [self.blocks[place] for place in self.free[first : first + 2]]
        return next((block for block in found if block is not self.last), found[0] if found else None)


class Allocator:
    """Takes and gives by number of the tensor. `is_expandable`: PYTORCH_ALLOC_CONF=expandable_segments:True."""

    def __init__(self, *, is_expandable: bool) -> None:
        self.is_expandable = is_expandable
        self.pools = {True: Pool(), False: Pool()}  # of small and of large tensors
        self.used: dict[int, Block] = {}
        self.segments = 0
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0

    def take(self, number: int, wanted: int) -> None:
        size = max(1, -(-wanted // SMALLEST)) * SMALLEST
        pool = self.pools[size <= SMALL]
        block = pool.smallest(size)
        if block is None:
            block = self._grown(size)
        pool.remove(block)
        rest = block.size - size
        if rest >= SMALLEST if block.is_small or self.is_expandable else rest > SMALL:
            self._split(pool, block, size)
        block.is_free = False
        self.used[number] = block
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def give(self, number: int) -> None:
        block = self.used.pop(number)
        self.allocated -= block.size
        pool = self.pools[block.is_small]
        if block.before is not None and block.before.is_free:
            pool.remove(block.before)
            block = self._joined(pool, block.before, block)
        if block.after is not None and block.after.is_free:
            pool.remove(block.after)
            block = self._joined(pool, block, block.after)
        pool.add(block)

    def empty(self) -> None:
        """torch.cuda.empty_cache(): segments that are wholly free go; of expandable ones, all free blocks.

        Peaks begin again, as after reset_peak_memory_stats().
        """
        for pool in self.pools.values():
            for block in list(pool.blocks.values()):
                if self.is_expandable or (block.before is None and block.after is None):
                    pool.remove(block)
                    self._forget(pool, block)
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def _forget(self, pool: Pool, block: Block) -> None:
        """Take a free block out of its segment. Its addresses are not used again here, as torch might."""
        self.reserved -= block.size
        if pool.last is block:
            pool.last = block.before
        if block.before is not None:
            block.before.after = None
        if block.after is not None:
            block.after.before = None

    def _split(self, pool: Pool, block: Block, size: int) -> None:
        rest = Block(block.segment, block.start + size, block.size - size, block.is_small)
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.size, block.after = size, rest
        if pool.last is block:
            pool.last = rest
        pool.add(rest)

    def _joined(self, pool: Pool, left: Block, right: Block) -> Block:
        left.size, left.after = left.size + right.size, right.after
        if right.after is not None:
            right.after.before = left
        if pool.last is right:
            pool.last = left
        return left

    def _grown(self, size: int) -> Block:
        """A free block of `size` or more, with memory that is new."""
        is_small = size <= SMALL
        pool, unit = self.pools[is_small], SMALL_SEGMENT if is_small else LARGE_SEGMENT
        if not self.is_expandable:
            grown = unit if size < MIDDLE else -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
            self.segments += 1
            block = Block(self.segments, 0, grown, is_small)
        else:
            end = pool.last
            spare = end.size if end is not None and end.is_free else 0
            grown = -(-(size - spare) // unit) * unit
            start = 0 if end is None else end.start + end.size
            block = Block(int(is_small), start, grown, is_small, before=end)
            if end is not None:
                end.after = block
                if end.is_free:
                    pool.remove(end)
                    block = self._joined(pool, end, block)
            pool.last = block
        self.reserved += grown
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        pool.add(block)
        return block


def replayed(changes: Iterable[tuple[int, int]], *, is_expandable: bool, emptied_at: int) -> Allocator:
    """The allocator after `changes`: number and bytes of a tensor that comes, or 0 for one that goes.

    Before change number `emptied_at` its cache is emptied.
    """
    allocator = Allocator(is_expandable=is_expandable)
    for i, (number, size) in enumerate(changes):
        if i == emptied_at:
            allocator.empty()
        if size:
            allocator.take(number, size)
        elif number in allocator.used:
            allocator.give(number)
    return allocator
