"""Memory-efficient attention of one sequence on CUDA: in float32, and in float16 on cards that lack flash attention.

Its kernels are those of torch's scaled_dot_product_attention there (Rabe and Staats 2021, arXiv 2112.05682). They take
as many key/value heads as query heads.
"""
# L queries and M keys · H query heads · N key/value heads · E head size

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rlvr.attention import flash
from rlvr.attention.pieces import Gradients, Piece, head_groups

LSE_MULTIPLE = 32  # the log-sum-exps of a head take a whole multiple of it

_aten = torch.ops.aten


def suits(x: Tensor, piece: Piece) -> bool:
    """Whether the kernels take queries like `x`. Their windows do not reach over keys that come before all queries."""
    if not x.is_cuda or x.shape[-1] % 8 or piece.window is not None:
        return False
    return x.dtype in (torch.float16, torch.float32) or (x.dtype == torch.bfloat16 and flash.is_ampere(x.device))


def forward(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output [L, H, E] and log-sum-exp [H, L] of q [L, H, E] and k, v [M, N, E]."""
    k, v = (_repeated(x, q.shape[1]) for x in (k, v))
    out, lse_1HP, *_ = _aten._efficient_attention_forward(
        q[None], k[None], v[None], None, None, None, None, None, 0.0, int(is_causal), True, scale=scale
    )
    return out[0], lse_1HP[0, :, : len(q)]


def backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_HL: Tensor, is_causal: bool, scale: float,
    sums: Gradients,
) -> None:  # fmt: skip
    """By groups of heads where the sequence is long: float32 sums of dq, and the copies of k and v, are of one."""
    lse_HP = nn.functional.pad(lse_HL, (0, -len(q) % LSE_MULTIPLE), value=math.inf)
    no_dropout = (torch.zeros((), dtype=torch.int64, device=q.device),) * 2
    for heads, shared in head_groups(q, k):
        repeated = (_repeated(x[:, shared], heads.stop - heads.start)[None] for x in (k, v))
        dq, dk, dv, _ = _aten._efficient_attention_backward(
            dout[None, :, heads], q[None, :, heads], *repeated, None, out[:, heads].contiguous()[None], None, None,
            len(q), len(k), lse_HP[None, heads].contiguous(), 0.0, *no_dropout, int(is_causal), False, scale=scale,
        )  # fmt: skip
        sums[0][:, heads] += dq[0]
        for total, part in zip(sums[1:], (dk, dv), strict=True):
            total[:, shared] += part[0].unflatten(1, (shared.stop - shared.start, -1)).sum(2)
        del dq, dk, dv, part  # before those of the next heads


def _repeated(x: Tensor, heads: int) -> Tensor:
    """Key/value heads [M, N, E], each as often as query heads share it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)
