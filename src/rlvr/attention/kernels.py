"""Attention of a few sequences and its gradient, by the kernel that fits device and type; none makes an L × M tensor.

CUDA in 16 bits: flash attention. CUDA else: memory-efficient attention. A CPU: torch's flash attention there. All but
the first go one sequence at a time, and with a window in blocks of queries in plain torch.
"""
# L queries and M keys of the sequences · H query heads · N key/value heads · E head size

from __future__ import annotations

import torch
from torch import Tensor

from rlvr.attention import blocks, efficient, flash
from rlvr.attention.blocks import heads_first
from rlvr.attention.pieces import Gradients, Piece, working_dtype

_aten = torch.ops.aten


def forward(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float) -> tuple[Tensor, Tensor]:
    """Output [L, H, E] in working_dtype and log-sum-exp of the scaled scores [H, L] of q [L, H, E], k, v [M, N, E]."""
    if flash.suits(q):
        return flash.forward(q, k, v, piece, scale)
    out = torch.empty(q.shape, dtype=working_dtype(q), device=q.device)
    lse_HL = torch.empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    for query_rows, key_rows in piece.sequences():
        inputs = q[query_rows], k[key_rows], v[key_rows]
        if q.device.type == "cpu" and piece.window is None:
            result = _cpu_forward(*inputs, piece.is_causal, scale)
        elif efficient.suits(q, piece):
            result = efficient.forward(*inputs, piece.is_causal, scale)
        else:
            result = blocks.forward(*inputs, piece, scale)
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
    if flash.suits(q):
        flash.backward(dout, q, k, v, out, lse_HL, piece, scale, sums)
        return
    for query_rows, key_rows in piece.sequences():
        inputs = (dout[query_rows], q[query_rows], k[key_rows], v[key_rows], out[query_rows], lse_HL[:, query_rows])
        part_sums = (sums[0][query_rows], sums[1][key_rows], sums[2][key_rows])
        if q.device.type == "cpu" and piece.window is None:
            _cpu_backward(*inputs, piece.is_causal, scale, part_sums)
        elif efficient.suits(q, piece):
            efficient.backward(*inputs, piece.is_causal, scale, part_sums)
        else:
            blocks.backward(*inputs, piece, scale, part_sums)


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    q, k, v = (heads_first(x)[None] for x in (q, k, v))
    out, lse_HL = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, scale=scale)
    return out[0].transpose(0, 1), lse_HL[0]


def _cpu_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_HL: Tensor, is_causal: bool, scale: float,
    sums: Gradients,
) -> None:  # fmt: skip
    dout, q, k, v, out = (heads_first(x)[None] for x in (dout, q, k, v, out))
    result = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        dout, q, k, v, out, lse_HL[None], 0.0, is_causal, scale=scale
    )
    for total, part in zip(sums, result, strict=True):
        total.add_(part[0].transpose(0, 1))
