"""RMSNorm in Triton: a few whole rows a program, one kernel forward and one backward."""
# N rows · D width · P programs
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NUMBERS = 4096  # that a program holds at a time: rows of attention heads are short
PROGRAMS = 1024  # that add up a weight's gradient, each for its rows


@triton.jit
def forward_kernel(
    x_ND, weight_D, y_ND, scale_N, num_rows, width, epsilon, offset,
    ROUNDS_FIRST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = (offset + w) · x / rms and 1 / rms."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # row · width passes 2^31
    lane = tl.arange(0, BLOCK)
    inside = (row < num_rows)[:, None] & (lane < width)[None, :]
    place = row[:, None] * width + lane[None, :]
    x = tl.load(x_ND + place, mask=inside, other=0.0).to(tl.float32)
    weight = offset + tl.load(weight_D + lane, mask=lane < width, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / width + epsilon)
    normed = x * scale[:, None]
    if ROUNDS_FIRST:
        normed = normed.to(y_ND.dtype.element_ty).to(tl.float32)
    tl.store(y_ND + place, (normed * weight[None, :]).to(y_ND.dtype.element_ty), mask=inside)
    tl.store(scale_N + row, scale, mask=row < num_rows)


@triton.jit
def backward_kernel(
    grad_ND, x_ND, weight_D, scale_N, grad_x_ND, grad_weight_PD, num_rows, width, offset,
    NEEDS_WEIGHT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of x, and where NEEDS_WEIGHT this program's share of that of w."""
    lane = tl.arange(0, BLOCK)
    weight = offset + tl.load(weight_D + lane, mask=lane < width, other=0.0).to(tl.float32)
    share = tl.zeros([BLOCK], dtype=tl.float32)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    for _ in range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        inside = (row < num_rows)[:, None] & (lane < width)[None, :]
        place = row[:, None] * width + lane[None, :]
        scale = tl.load(scale_N + row, mask=row < num_rows, other=0.0)
        grad = tl.load(grad_ND + place, mask=inside, other=0.0).to(tl.float32)
        normed = tl.load(x_ND + place, mask=inside, other=0.0).to(tl.float32) * scale[:, None]
        of_normed = grad * weight[None, :]
        shared = tl.sum(of_normed * normed, axis=1) / width
        grad_x = (of_normed - normed * shared[:, None]) * scale[:, None]
        tl.store(grad_x_ND + place, grad_x.to(grad_x_ND.dtype.element_ty), mask=inside)
        if NEEDS_WEIGHT:
            share += tl.sum(grad * normed, axis=0)
        row += tl.num_programs(0) * ROWS
    if NEEDS_WEIGHT:
        tl.store(grad_weight_PD + tl.program_id(0).to(tl.int64) * width + lane, share, mask=lane < width)


def forward(
    x_ND: Tensor, weight_D: Tensor, y_ND: Tensor, scale_N: Tensor, epsilon: float, offset: float, rounds_first: bool
) -> None:
    """Write the norm of contiguous rows to `y_ND`, and 1 / rms to `scale_N`."""
    settings = launch(x_ND.shape[1])
    if len(x_ND):
        forward_kernel[(triton.cdiv(len(x_ND), settings["ROWS"]),)](
            x_ND.contiguous(), weight_D, y_ND, scale_N, *x_ND.shape, epsilon, offset,
            ROUNDS_FIRST=rounds_first, **settings,
        )  # fmt: skip


def backward(
    grad_ND: Tensor, x_ND: Tensor, weight_D: Tensor, scale_N: Tensor, grad_x_ND: Tensor, offset: float, *,
    needs_weight: bool,
) -> Tensor | None:  # fmt: skip
    """Write the gradient of the rows to `grad_x_ND`; returns that of the weight where it is needed, in float32. [D]"""
    settings = launch(x_ND.shape[1])
    programs = triton.cdiv(len(x_ND), settings["ROWS"])
    shares_PD = None
    if needs_weight:
        programs = min(programs, PROGRAMS)
        shares_PD = x_ND.new_empty(programs, x_ND.shape[1], dtype=torch.float32)
    if len(x_ND):
        backward_kernel[(programs,)](
            grad_ND.contiguous(), x_ND.contiguous(), weight_D, scale_N, grad_x_ND,
            grad_x_ND if shares_PD is None else shares_PD, *x_ND.shape, offset, NEEDS_WEIGHT=needs_weight, **settings,
        )  # fmt: skip
    return None if shares_PD is None else shares_PD.sum(0)


def launch(width: int) -> dict[str, int]:
    """Rows of a program, the block that holds one of `width`, and warps."""
    block = triton.next_power_of_2(width)
    rows = max(1, NUMBERS // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, min(32, rows * block // 512))}
