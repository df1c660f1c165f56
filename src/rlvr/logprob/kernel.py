"""Rows of logits in Triton: one program a row, one pass for what the softmax makes of it, one for the way back."""
# C rows of a chunk · V vocabulary
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlvr.logprob.rows import LogitMap

MAX_BLOCK = 8192  # logits that a program holds at a time


class SoftmaxState(NamedTuple):
    """What the gradient needs of the rows."""

    logits_CV: Tensor
    lse_C: Tensor
    entropy_C: Tensor


@triton.jit
def tanh(x):
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def mapped(x, scale, cap, inverse_temperature, CAPPED: tl.constexpr):
    """LogitMap of logits x."""
    y = x * scale
    if CAPPED:
        y = cap * tanh(y / cap)
    return y * inverse_temperature


@triton.jit
def row_statistics(row, target, vocabulary, scale, cap, inverse_temperature, CAPPED: tl.constexpr, BLOCK: tl.constexpr):
    """Log-probability of the target, entropy and log Σ exp of the row of logits at pointer `row`."""
    target_y = mapped(tl.load(row + target).to(tl.float32), scale, cap, inverse_temperature, CAPPED)
    lane = tl.arange(0, BLOCK)
    largest = -1.0e38  # finite: (largest − new) · 0 stays 0
    total = tl.zeros([BLOCK], dtype=tl.float32)
    moment = tl.zeros([BLOCK], dtype=tl.float32)  # Σ e·(y − largest)
    for start in range(0, vocabulary, BLOCK):
        inside = start + lane < vocabulary
        x = tl.load(row + start + lane, mask=inside, other=0.0).to(tl.float32)
        y = mapped(x, scale, cap, inverse_temperature, CAPPED)
        new = tl.maximum(largest, tl.max(tl.where(inside, y, -1.0e38), axis=0))
        fade = tl.exp(largest - new)
        shifted = y - new
        power = tl.where(inside, tl.exp(shifted), 0.0)
        moment = fade * (moment + (largest - new) * total) + power * shifted
        total = fade * total + power
        largest = new
    z = tl.sum(total, axis=0)
    log_z = tl.log(z)
    return target_y - largest - log_z, log_z - tl.sum(moment, axis=0) / z, largest + log_z


@triton.jit
def row_gradient(
    row,
    out,
    target,
    vocabulary,
    lse,
    entropy,
    dlogp,
    dentropy,
    scale,
    cap,
    inverse_temperature,
    CAPPED: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dlogp·(1[target] − p) − dentropy·p·(log p + H), times ∂y/∂x, to pointer `out`, which may be `row`."""
    lane = tl.arange(0, BLOCK)
    slope = scale * inverse_temperature
    for start in range(0, vocabulary, BLOCK):
        column = start + lane
        inside = column < vocabulary
        x = tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
        logp = mapped(x, scale, cap, inverse_temperature, CAPPED) - lse
        factor = dlogp
        if ENTROPY:
            factor = dlogp + dentropy * (logp + entropy)
        gradient = tl.where(column == target, dlogp, 0.0) - tl.where(inside, tl.exp(logp), 0.0) * factor
        if CAPPED:
            bent = tanh(x * scale / cap)
            gradient = gradient * (1.0 - bent * bent)
        tl.store(out + column, (gradient * slope).to(out.dtype.element_ty), mask=inside)


@triton.jit
def statistics_kernel(
    logits,
    target_C,
    logp_C,
    entropy_C,
    lse_C,
    stride,
    vocabulary,
    scale,
    cap,
    inverse_temperature,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)  # i · stride passes 2^31
    target = tl.load(target_C + i)
    logp, entropy, lse = row_statistics(
        logits + i * stride, target, vocabulary, scale, cap, inverse_temperature, CAPPED, BLOCK
    )
    tl.store(logp_C + i, logp)
    tl.store(entropy_C + i, entropy)
    tl.store(lse_C + i, lse)


@triton.jit
def gradient_kernel(
    logits,
    out,
    target_C,
    lse_C,
    entropy_C,
    dlogp_C,
    dentropy_C,
    stride,
    vocabulary,
    scale,
    cap,
    inverse_temperature,
    CAPPED: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    dentropy = 0.0
    if ENTROPY:
        dentropy = tl.load(dentropy_C + i)
    row_gradient(
        logits + i * stride,
        out + i * stride,
        tl.load(target_C + i),
        vocabulary,
        tl.load(lse_C + i),
        tl.load(entropy_C + i),
        tl.load(dlogp_C + i),
        dentropy,
        scale,
        cap,
        inverse_temperature,
        CAPPED,
        ENTROPY,
        BLOCK,
    )


def statistics(
    logits_CV: Tensor, target_C: Tensor, logit_map: LogitMap, *, entropy_gradient: bool
) -> tuple[Tensor, Tensor, SoftmaxState]:
    """Log-probability of each target, entropy, and the state for `gradient`, from contiguous float32 logits."""
    logp_C, entropy_C, lse_C = (logits_CV.new_empty(len(logits_CV)) for _ in range(3))
    if len(logits_CV):
        vocabulary = logits_CV.shape[1]
        statistics_kernel[(len(logits_CV),)](
            logits_CV, target_C.contiguous(), logp_C, entropy_C, lse_C, logits_CV.stride(0), vocabulary,
            **map_arguments(logit_map), **launch(vocabulary),
        )  # fmt: skip
    return logp_C, entropy_C, SoftmaxState(logits_CV, lse_C, entropy_C)


def gradient(
    state: SoftmaxState,
    target_C: Tensor,
    dlogp_C: Tensor,
    dentropy_C: Tensor | None,
    logit_map: LogitMap,
    dtype: torch.dtype,
) -> Tensor:
    """rows.gradient, in `dtype`; float32 takes the place of the logits. [C, V]"""
    logits_CV = state.logits_CV
    out_CV = logits_CV if dtype == torch.float32 else torch.empty_like(logits_CV, dtype=dtype)
    if len(logits_CV):
        vocabulary = logits_CV.shape[1]
        dentropy_or_any_C = dlogp_C if dentropy_C is None else dentropy_C
        gradient_kernel[(len(logits_CV),)](
            logits_CV, out_CV, target_C.contiguous(), state.lse_C, state.entropy_C, dlogp_C.contiguous(),
            dentropy_or_any_C.contiguous(), logits_CV.stride(0), vocabulary,
            **map_arguments(logit_map), ENTROPY=dentropy_C is not None, **launch(vocabulary),
        )  # fmt: skip
    return out_CV


def map_arguments(logit_map: LogitMap) -> dict[str, float | bool]:
    """The kernels' arguments for `logit_map`."""
    cap = logit_map.soft_cap
    return {
        "scale": float(logit_map.scale),
        "cap": 1.0 if cap is None else float(cap),
        "inverse_temperature": 1.0 / logit_map.temperature,
        "CAPPED": cap is not None,
    }


def launch(vocabulary: int) -> dict[str, int]:
    """Block and warps for rows of `vocabulary` logits."""
    block = min(triton.next_power_of_2(vocabulary), MAX_BLOCK)
    return {"BLOCK": block, "num_warps": max(1, min(16, block // 256))}
