"""Flash attention on CUDA in 16 bits, with cumulative lengths, as torch.nn.attention.varlen calls it."""
# L queries and M keys of the sequences · H query heads · N key/value heads · E head size

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from rlvr.attention.pieces import Gradients, Piece, head_groups

_aten = torch.ops.aten


def suits(x: Tensor) -> bool:
    """Whether torch's flash attention for CUDA takes queries like `x`: 16 bits, Ampere or newer.

    It treats a single query differently.
    """
    is_16_bit = x.dtype in (torch.float16, torch.bfloat16)
    fits = len(x) > 1 and x.shape[-1] <= 256 and x.shape[-1] % 8 == 0
    return x.is_cuda and is_16_bit and fits and is_ampere(x.device)


@cache
def is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def forward(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float) -> tuple[Tensor, Tensor]:
    left, right = _window(piece)
    out, lse_HL, *_ = _aten._flash_attention_forward(
        q, k, v, *piece.cumulative, *piece.longest, 0.0, piece.is_causal and piece.window is None, False,
        scale=scale, window_size_left=left, window_size_right=right,
    )  # fmt: skip
    return out, lse_HL


def backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_HL: Tensor, piece: Piece, scale: float,
    sums: Gradients,
) -> None:  # fmt: skip
    """By groups of heads where the piece is long: float32 sums of dq, and dk and dv of every query head, are of one."""
    left, right = _window(piece)
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
    for heads, shared in head_groups(q, k):
        result = _aten._flash_attention_backward(
            dout[:, heads], q[:, heads], k[:, shared], v[:, shared], out[:, heads], lse_HL[heads].contiguous(),
            *piece.cumulative, *piece.longest, 0.0, piece.is_causal and piece.window is None, *no_dropout,
            scale=scale, window_size_left=left, window_size_right=right,
        )  # fmt: skip
        for total, part, where in zip(sums, result, (heads, shared, shared), strict=True):
            total[:, where] += part
        del result, part  # before those of the next heads


def _window(piece: Piece) -> tuple[int, int]:
    """Keys that a query sees to the left and right of its position, -1: all; last query and last key are aligned."""
    if piece.is_causal:
        return (-1 if piece.window is None else piece.window - 1), 0
    return (-1 if piece.window is None else piece.window - 1 - piece.query_bounds[-1]), -1
