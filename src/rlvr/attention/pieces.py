"""What tokens see, in pieces that a kernel attends to in one call: their own sequence, and prompts before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

CALL_TOKENS = 8192  # of all heads in one call: what bounds the workspace of a kernel's backward

Gradients = tuple[Tensor, Tensor, Tensor]  # of queries, keys and values


def working_dtype(x: Tensor) -> torch.dtype:
    """The type of what the kernels return: that of `x`; on a CPU at least float32, where 16 bits are slow."""
    return torch.promote_types(x.dtype, torch.float32) if x.device.type == "cpu" else x.dtype


@dataclass(frozen=True)
class Piece:
    """Neighbouring sequences of queries, each with its keys: where they lie, and cumulative lengths from 0.

    Causal: queries are their own keys, and query i sees keys up to i. Otherwise all keys come right before the first
    query. With a window of w tokens a query sees the last w up to itself, and every query sees some key.
    """

    queries: slice
    keys: slice
    query_bounds: tuple[int, ...]
    key_bounds: tuple[int, ...]
    is_causal: bool
    window: int | None
    device: torch.device

    @cached_property
    def cumulative(self) -> tuple[Tensor, Tensor]:
        query_bounds, key_bounds = (
            torch.tensor(bounds, dtype=torch.int32, device=self.device)
            for bounds in (self.query_bounds, self.key_bounds)
        )
        return query_bounds, key_bounds

    @property
    def longest(self) -> tuple[int, int]:
        """Queries and keys of the longest sequences."""
        most_queries, most_keys = (
            max(b - a for a, b in pairwise(bounds)) for bounds in (self.query_bounds, self.key_bounds)
        )
        return most_queries, most_keys

    def sequences(self) -> Iterator[tuple[slice, slice]]:
        both = zip(pairwise(self.query_bounds), pairwise(self.key_bounds), strict=True)
        return ((slice(*of_queries), slice(*of_keys)) for of_queries, of_keys in both)


@dataclass(frozen=True)
class Pieces:
    """What the tokens of a stream see: `own` sequences, which are all tokens, and what lies `behind` them."""

    own: tuple[Piece, ...]
    behind: tuple[Piece, ...]


def own_pieces(lengths: Sequence[int], window: int | None, device: torch.device) -> tuple[Piece, ...]:
    """Every sequence with itself; neighbours of up to CALL_TOKENS together."""
    pieces, start = [], 0
    for together in _calls([length for length in lengths if length]):
        bounds = tuple(itertools.accumulate(together, initial=0))
        where = slice(start, start + bounds[-1])
        pieces.append(Piece(where, where, bounds, bounds, True, window, device))
        start = where.stop
    return tuple(pieces)


def behind_pieces(
    prefix_lengths: Sequence[int],
    row_lengths: Sequence[int],
    prefix_of_row: Sequence[int],
    window: int | None,
    device: torch.device,
    *,
    first_row: int,
) -> tuple[Piece, ...]:
    """Rows, the first of which begins at token `first_row`, with the prefixes, which begin at token 0 of the keys.

    The rows of a prefix all see all of it, and so go together as if they were one. With a window each row goes alone:
    its first tokens see the end of the prefix.
    """
    starts = list(itertools.accumulate(prefix_lengths, initial=0))
    pieces = []
    for prefix, numbers in itertools.groupby(range(len(row_lengths)), key=lambda row: prefix_of_row[row]):
        lengths = [row_lengths[row] for row in numbers]
        reach = prefix_lengths[prefix] if window is None else min(prefix_lengths[prefix], window - 1)
        for together in _calls(lengths) if window is None else ([length] for length in lengths):
            seeing = sum(together) if window is None else min(sum(together), window - 1)
            if reach and seeing:
                queries = slice(first_row, first_row + seeing)
                keys = slice(starts[prefix + 1] - reach, starts[prefix + 1])
                pieces.append(Piece(queries, keys, (0, seeing), (0, reach), False, window, device))
            first_row += sum(together)
    return tuple(pieces)


def _calls(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Neighbours of up to CALL_TOKENS in all, or one that is longer."""
    together: list[int] = []
    for length in lengths:
        if together and sum(together) + length > CALL_TOKENS:
            yield together
            together = []
        together.append(length)
    if together:
        yield together


def head_groups(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Query heads and the key/value heads that they share, so few that tokens × heads stays under CALL_TOKENS × H.

    `q` is [L, H, E] and `k` [M, N, E].
    """
    shared, repeat = k.shape[1], q.shape[1] // k.shape[1]
    num_parts = min(shared, math.ceil(max(len(q), len(k)) / CALL_TOKENS))
    size = shared // next(count for count in range(num_parts, shared + 1) if shared % count == 0)
    for first in range(0, shared, size):
        yield slice(first * repeat, (first + size) * repeat), slice(first, first + size)
