"""Attention of a few sequences and its gradient, by the kernel that fits device and type; none makes an L × M tensor.

CUDA in 16 bits: flash attention with cumulative lengths, as torch.nn.attention.varlen calls it. A CPU, outside of
windows: torch's flash attention there, one sequence at a time. All else: blocks of queries in plain torch.
"""
# L queries and M keys of the sequences · H query heads · N key/value heads · E head size · B queries of a block

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import torch
from torch import Tensor

CALL_TOKENS = 8192  # of all heads in one call: what bounds the workspace of flash attention's backward
SCORE_BYTES = 2**24  # of the scores of one block in plain torch; backward has three such tensors

Gradients = tuple[Tensor, Tensor, Tensor]

_aten = torch.ops.aten


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


def working_dtype(x: Tensor) -> torch.dtype:
    """The type of what the kernels return: that of `x`; on a CPU at least float32, where 16 bits are slow."""
    return torch.promote_types(x.dtype, torch.float32) if x.device.type == "cpu" else x.dtype


def forward(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float) -> tuple[Tensor, Tensor]:
    """Output [L, H, E] in working_dtype and log-sum-exp of the scaled scores [H, L] of q [L, H, E], k, v [M, N, E]."""
    if has_flash(q):
        return _flash_forward(q, k, v, piece, scale)
    out = torch.empty(q.shape, dtype=working_dtype(q), device=q.device)
    lse_HL = torch.empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    for query_rows, key_rows in piece.sequences():
        if q.device.type == "cpu" and piece.window is None:
            result = _cpu_forward(q[query_rows], k[key_rows], v[key_rows], piece.is_causal, scale)
        else:
            result = _block_forward(q[query_rows], k[key_rows], v[key_rows], piece, scale)
        out[query_rows], lse_HL[:, query_rows] = result
    return out, lse_HL


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse_HL: Tensor,
    piece: Piece,
    scale: float,
    sums: Gradients,
) -> None:
    """Add this piece's gradients of q, k and v to `sums`.

    `out` and `lse_HL` are of all keys that the queries see, of which the piece may hold a part.
    """
    if has_flash(q):
        _flash_backward(dout, q, k, v, out, lse_HL, piece, scale, sums)
        return
    for query_rows, key_rows in piece.sequences():
        inputs = (dout[query_rows], q[query_rows], k[key_rows], v[key_rows], out[query_rows], lse_HL[:, query_rows])
        part_sums = (sums[0][query_rows], sums[1][key_rows], sums[2][key_rows])
        if q.device.type == "cpu" and piece.window is None:
            _cpu_backward(*inputs, piece.is_causal, scale, part_sums)
        else:
            _block_backward(*inputs, piece, scale, part_sums)


def has_flash(x: Tensor) -> bool:
    """Whether torch's flash attention for CUDA takes queries like `x`: 16 bits, Ampere or newer.

    It treats a single query differently.
    """
    is_16_bit = x.dtype in (torch.float16, torch.bfloat16)
    fits = len(x) > 1 and x.shape[-1] <= 256 and x.shape[-1] % 8 == 0
    return x.is_cuda and is_16_bit and fits and _is_ampere(x.device)


@cache
def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _flash_forward(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float) -> tuple[Tensor, Tensor]:
    left, right = _flash_window(piece)
    out, lse_HL, *_ = _aten._flash_attention_forward(
        q, k, v, *piece.cumulative, *piece.longest, 0.0, piece.is_causal and piece.window is None, False,
        scale=scale, window_size_left=left, window_size_right=right,
    )  # fmt: skip
    return out, lse_HL


def _flash_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_HL: Tensor, piece: Piece, scale: float,
    sums: Gradients,
) -> None:  # fmt: skip
    """By groups of heads where the piece is long: float32 sums of dq, and dk and dv of every query head, are of one."""
    left, right = _flash_window(piece)
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
    for heads, shared in _head_groups(q, k):
        result = _aten._flash_attention_backward(
            dout[:, heads], q[:, heads], k[:, shared], v[:, shared], out[:, heads], lse_HL[heads].contiguous(),
            *piece.cumulative, *piece.longest, 0.0, piece.is_causal and piece.window is None, *no_dropout,
            scale=scale, window_size_left=left, window_size_right=right,
        )  # fmt: skip
        for total, part, where in zip(sums, result, (heads, shared, shared), strict=True):
            total[:, where] += part
        del result, part  # before those of the next heads


def _flash_window(piece: Piece) -> tuple[int, int]:
    """Keys that a query sees to the left and right of its position, -1: all; last query and last key are aligned."""
    if piece.is_causal:
        return (-1 if piece.window is None else piece.window - 1), 0
    return (-1 if piece.window is None else piece.window - 1 - piece.query_bounds[-1]), -1


def _head_groups(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Query heads and the key/value heads that they share, so few that tokens × heads stays under CALL_TOKENS × H."""
    shared, repeat = k.shape[1], q.shape[1] // k.shape[1]
    num_parts = min(shared, math.ceil(max(len(q), len(k)) / CALL_TOKENS))
    size = shared // next(count for count in range(num_parts, shared + 1) if shared % count == 0)
    for first in range(0, shared, size):
        yield slice(first * repeat, (first + size) * repeat), slice(first, first + size)


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    q, k, v = (_heads_first(x)[None] for x in (q, k, v))
    out, lse_HL = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, scale=scale)
    return out[0].transpose(0, 1), lse_HL[0]


def _cpu_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_HL: Tensor, is_causal: bool, scale: float,
    sums: Gradients,
) -> None:  # fmt: skip
    dout, q, k, v, out = (_heads_first(x)[None] for x in (dout, q, k, v, out))
    result = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        dout, q, k, v, out, lse_HL[None], 0.0, is_causal, scale=scale
    )
    for total, part in zip(sums, result, strict=True):
        total.add_(part[0].transpose(0, 1))


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).to(torch.promote_types(x.dtype, torch.float32))


def _block_forward(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float) -> tuple[Tensor, Tensor]:
    out, lse_HL = torch.empty_like(q, dtype=working_dtype(q)), []
    for queries, keys in _blocks(q, k, piece):
        scores_NBM = _scores(q[queries], k[keys], queries, keys, piece, len(k), scale)
        lse_NB = scores_NBM.logsumexp(-1)
        weights_NBM = scores_NBM.sub_(lse_NB[..., None]).exp_()
        out[queries] = _ungrouped(weights_NBM @ _heads_first(v[keys]), q.shape[1])
        lse_HL.append(lse_NB.reshape(q.shape[1], -1))
    return out, torch.cat(lse_HL, dim=1)


def _block_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_HL: Tensor, piece: Piece, scale: float,
    sums: Gradients,
) -> None:  # fmt: skip
    shared = k.shape[1]
    for queries, keys in _blocks(q, k, piece):
        weights_NBM = _scores(q[queries], k[keys], queries, keys, piece, len(k), scale)
        weights_NBM.sub_(lse_HL[:, queries].reshape(shared, -1, 1)).exp_()
        q_NBE, dout_NBE, out_NBE = (_grouped(x[queries], shared) for x in (q, dout, out))
        sums[2][keys] += (weights_NBM.transpose(1, 2) @ dout_NBE).transpose(0, 1)
        dscores_NBM = dout_NBE @ _heads_first(v[keys]).transpose(1, 2)
        dscores_NBM.sub_((dout_NBE * out_NBE).sum(-1, keepdim=True)).mul_(weights_NBM).mul_(scale)
        sums[0][queries] += _ungrouped(dscores_NBM @ _heads_first(k[keys]), q.shape[1])
        sums[1][keys] += (dscores_NBM.transpose(1, 2) @ q_NBE).transpose(0, 1)


def _blocks(q: Tensor, k: Tensor, piece: Piece) -> Iterator[tuple[slice, slice]]:
    """Queries, as many as SCORE_BYTES hold the scores of, and the keys that one of them sees."""
    before = 0 if piece.is_causal else len(k)  # position of the first query, counted from the first key
    window = before + len(q) if piece.window is None else piece.window
    widest = min(len(k), 2 * window)
    size = torch.promote_types(q.dtype, torch.float32).itemsize
    rows = max(1, min(window, SCORE_BYTES // (size * q.shape[1] * widest)))
    for first in range(0, len(q), rows):
        end = min(first + rows, len(q))
        yield slice(first, end), slice(max(0, before + first - window + 1), min(len(k), before + end))


def _scores(q: Tensor, k: Tensor, queries: slice, keys: slice, piece: Piece, num_keys: int, scale: float) -> Tensor:
    """Scaled scores [N, H/N · B, M] of a block, −∞ where a query does not see a key."""
    scores_NBM = (_grouped(q, k.shape[1]) @ _heads_first(k).transpose(1, 2)).mul_(scale)
    position_B = torch.arange(queries.start, queries.stop, device=q.device) + (0 if piece.is_causal else num_keys)
    behind_BM = position_B[:, None] - torch.arange(keys.start, keys.stop, device=q.device)
    hidden_BM = behind_BM < 0
    if piece.window is not None:
        hidden_BM |= behind_BM >= piece.window
    by_head = scores_NBM.view(k.shape[1], -1, len(q), len(k))
    by_head.masked_fill_(hidden_BM, -math.inf)
    return scores_NBM


def _grouped(x: Tensor, shared: int) -> Tensor:
    """[B, H, E] to [N, H/N · B, E] in float32 or better: the query heads that share a key/value head, together."""
    return _heads_first(x).reshape(shared, -1, x.shape[-1])


def _ungrouped(x: Tensor, heads: int) -> Tensor:
    """[N, H/N · B, E] to [B, H, E]."""
    return x.reshape(heads, -1, x.shape[-1]).transpose(0, 1)
