"""Attention in plain torch, one block of queries after the other: for windows, and where no kernel fits."""
# L queries and M keys · H query heads · N key/value heads · E head size · B queries of a block

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rlvr.attention.pieces import Gradients, Piece, working_dtype

SCORE_BYTES = 2**24  # of the scores of one block; backward has three such tensors


def forward(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float) -> tuple[Tensor, Tensor]:
    out, lse_HL = torch.empty_like(q, dtype=working_dtype(q)), []
    for queries, keys in _blocks(q, k, piece):
        scores_NBM = _scores(q[queries], k[keys], queries, keys, piece, len(k), scale)
        lse_NB = scores_NBM.logsumexp(-1)
        weights_NBM = scores_NBM.sub_(lse_NB[..., None]).exp_()
        out[queries] = _ungrouped(weights_NBM @ heads_first(v[keys]), q.shape[1])
        lse_HL.append(lse_NB.reshape(q.shape[1], -1))
    return out, torch.cat(lse_HL, dim=1)


def backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_HL: Tensor, piece: Piece, scale: float,
    sums: Gradients,
) -> None:  # fmt: skip
    shared = k.shape[1]
    for queries, keys in _blocks(q, k, piece):
        weights_NBM = _scores(q[queries], k[keys], queries, keys, piece, len(k), scale)
        weights_NBM.sub_(lse_HL[:, queries].reshape(shared, -1, 1)).exp_()
        q_NBE, dout_NBE, out_NBE = (_grouped(x[queries], shared) for x in (q, dout, out))
        sums[2][keys] += (weights_NBM.transpose(1, 2) @ dout_NBE).transpose(0, 1)
        dscores_NBM = dout_NBE @ heads_first(v[keys]).transpose(1, 2)
        dscores_NBM.sub_((dout_NBE * out_NBE).sum(-1, keepdim=True)).mul_(weights_NBM).mul_(scale)
        sums[0][queries] += _ungrouped(dscores_NBM @ heads_first(k[keys]), q.shape[1])
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
    scores_NBM = (_grouped(q, k.shape[1]) @ heads_first(k).transpose(1, 2)).mul_(scale)
    position_B = torch.arange(queries.start, queries.stop, device=q.device) + (0 if piece.is_causal else num_keys)
    behind_BM = position_B[:, None] - torch.arange(keys.start, keys.stop, device=q.device)
    hidden_BM = behind_BM < 0
    if piece.window is not None:
        hidden_BM |= behind_BM >= piece.window
    by_head = scores_NBM.view(k.shape[1], -1, len(q), len(k))
    by_head.masked_fill_(hidden_BM, -math.inf)
    return scores_NBM


def heads_first(x: Tensor) -> Tensor:
    """[B, H, E] to [H, B, E] in float32 or better."""
    return x.transpose(0, 1).to(torch.promote_types(x.dtype, torch.float32))


def _grouped(x: Tensor, shared: int) -> Tensor:
    """[B, H, E] to [N, H/N · B, E] in float32 or better: the query heads that share a key/value head, together."""
    return heads_first(x).reshape(shared, -1, x.shape[-1])


def _ungrouped(x: Tensor, heads: int) -> Tensor:
    """[N, H/N · B, E] to [B, H, E]."""
    return x.reshape(heads, -1, x.shape[-1]).transpose(0, 1)
