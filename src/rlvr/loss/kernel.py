"""Every loss in Triton: token by token inside the head's row kernel, and completion by completion on its own."""
# T trained tokens · C tokens of a chunk · R rows, completions · V vocabulary
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlvr.batch import MicroBatch
from rlvr.logprob.kernel import launch, map_arguments, row_gradient, row_statistics
from rlvr.loss.fused import Terms
from rlvr.types import LossSpec

FAMILY = {"cispo": 1, "sapo": 2}  # the others are 0: the clip
OFF, GIVEN, TOKEN, SEQUENCE = 0, 1, 2, 3  # where a correction comes from
BLOCK = 1024  # tokens of a completion at a time


@triton.jit
def policy_term(ratio, logp, advantage, epsilon, epsilon_high, delta, FAMILY: tl.constexpr, HAS_DELTA: tl.constexpr):
    """reference.policy_term and its derivative by logp, that of a ratio of the sequence by its exponent."""
    if FAMILY == 1:
        slope = -tl.minimum(ratio, epsilon_high) * advantage
        term = slope * logp
    elif FAMILY == 2:
        tau = tl.where(advantage > 0.0, 1.0, 1.05)
        gate = 1.0 / (1.0 + tl.exp(-tau * (ratio - 1.0)))
        term = -4.0 / tau * gate * advantage
        slope = -4.0 * gate * (1.0 - gate) * ratio * advantage
    else:
        unclipped = ratio
        if HAS_DELTA:
            unclipped = tl.minimum(ratio, delta)
        clipped = tl.minimum(tl.maximum(ratio, 1.0 - epsilon), 1.0 + epsilon_high)
        passes = unclipped * advantage <= clipped * advantage
        if HAS_DELTA:
            passes = passes & (ratio <= delta)
        term = -tl.minimum(unclipped * advantage, clipped * advantage)
        slope = tl.where(passes, -ratio * advantage, 0.0)
    return term, slope


@triton.jit
def kl_term(ratio, difference, mean_k, UNBIASED: tl.constexpr, SEQUENTIAL: tl.constexpr):
    """K, or K·ratio, and its derivative by logp; `difference` is logp − ref, `mean_k` the row's mean of K."""
    term = tl.exp(-difference) + difference - 1.0
    slope = 1.0 - tl.exp(-difference)
    if UNBIASED:
        term = term * ratio
        slope = ratio * (slope + mean_k) if SEQUENTIAL else ratio * difference
    return term, slope


@triton.jit
def bounded(weight, minimum, maximum, MASKED: tl.constexpr):
    """The importance weight, truncated to the bounds or 0 outside."""
    inside = tl.minimum(tl.maximum(weight, minimum), maximum)
    if MASKED:
        inside = tl.where(inside == weight, weight, 0.0)
    return inside


@triton.jit
def head_kernel(
    logits, out, target_C, logp_C, entropy_C, loss_C, old_C, correction_C, advantage_C, reference_C, weight_C,
    stride, vocabulary, scale, cap, inverse_temperature, entropy_weight, boost,
    epsilon, epsilon_high, delta, beta, importance_min, importance_max,
    CAPPED: tl.constexpr, BLOCK: tl.constexpr, ENTROPY: tl.constexpr, GRADIENT: tl.constexpr, HAS_OLD: tl.constexpr,
    FAMILY: tl.constexpr, HAS_DELTA: tl.constexpr, KL: tl.constexpr, UNBIASED: tl.constexpr,
    CORRECTION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One token a program: statistics of its row of logits, loss and gradient in registers, gradient of the row.

    `correction_C` holds the correction, or where CORRECTION is 2 (TOKEN) the sampler's log-probabilities.
    """
    i = tl.program_id(0).to(tl.int64)  # i · stride passes 2^31
    target = tl.load(target_C + i)
    logp, entropy, lse = row_statistics(
        logits + i * stride, target, vocabulary, scale, cap, inverse_temperature, CAPPED, BLOCK
    )
    advantage = tl.load(advantage_C + i)
    old = logp
    if HAS_OLD:
        old = tl.load(old_C + i)
    ratio = tl.exp(logp - old)
    loss, dlogp = policy_term(ratio, logp, advantage, epsilon, epsilon_high, delta, FAMILY, HAS_DELTA)
    if CORRECTION > 0:
        correction = tl.load(correction_C + i)
        if CORRECTION == 2:
            correction = bounded(tl.exp(old - correction), importance_min, importance_max, MASKED)
        loss, dlogp = loss * correction, dlogp * correction
    if KL:
        k, dk = kl_term(ratio, logp - tl.load(reference_C + i), 0.0, UNBIASED, False)
        loss, dlogp = loss + beta * k, dlogp + beta * dk
    weight = tl.load(weight_C + i)
    tl.store(logp_C + i, logp)
    tl.store(entropy_C + i, entropy)
    tl.store(loss_C + i, loss * weight - entropy_weight * entropy)
    if GRADIENT:
        row_gradient(
            logits + i * stride, out + i * stride, target, vocabulary, lse, entropy,
            dlogp * weight * boost, -entropy_weight * boost, scale, cap, inverse_temperature, CAPPED, ENTROPY, BLOCK,
        )  # fmt: skip


@triton.jit
def completion_kernel(
    start_R, logp_T, old_T, sampler_T, advantage_T, reference_T, weight_T, loss_T, dlogp_T, correction_T,
    epsilon, epsilon_high, delta, beta, importance_min, importance_max,
    BLOCK: tl.constexpr, SEQUENTIAL: tl.constexpr, FAMILY: tl.constexpr, HAS_DELTA: tl.constexpr, KL: tl.constexpr,
    UNBIASED: tl.constexpr, CORRECTION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One completion a program: sums over its tokens in a fixed order, then loss and gradient of each token."""
    row = tl.program_id(0)
    first, end = tl.load(start_R + row), tl.load(start_R + row + 1)
    lane = tl.arange(0, BLOCK)
    gap, shift, divergence, corrections = (
        tl.zeros([BLOCK], dtype=tl.float32), tl.zeros([BLOCK], dtype=tl.float32),
        tl.zeros([BLOCK], dtype=tl.float32), tl.zeros([BLOCK], dtype=tl.float32),
    )  # fmt: skip
    for begin in range(first, end, BLOCK):
        t, inside = begin + lane, begin + lane < end
        logp, old = tl.load(logp_T + t, mask=inside, other=0.0), tl.load(old_T + t, mask=inside, other=0.0)
        shift += logp - old
        if CORRECTION > 0:
            d = old - tl.load(sampler_T + t, mask=inside, other=0.0)
            gap += d
            corrections += tl.where(inside, bounded(tl.exp(d), importance_min, importance_max, MASKED), 0.0)
        if KL:
            difference = tl.where(inside, logp - tl.load(reference_T + t, mask=inside, other=0.0), 0.0)
            divergence += tl.exp(-difference) + difference - 1.0
    length = tl.maximum(end - first, 1).to(tl.float32)
    mean_k = tl.sum(divergence, axis=0) / length
    mean_correction = tl.sum(corrections, axis=0) / length
    row_correction = bounded(tl.exp(tl.sum(gap, axis=0)), importance_min, importance_max, MASKED)
    row_shift = tl.sum(shift, axis=0) / length
    for begin in range(first, end, BLOCK):
        t, inside = begin + lane, begin + lane < end
        logp, old = tl.load(logp_T + t, mask=inside, other=0.0), tl.load(old_T + t, mask=inside, other=0.0)
        ratio = tl.exp(logp - old)
        if SEQUENTIAL:
            ratio = tl.exp(row_shift + 0.0 * logp)
        advantage = tl.load(advantage_T + t, mask=inside, other=0.0)
        loss, dlogp = policy_term(ratio, logp, advantage, epsilon, epsilon_high, delta, FAMILY, HAS_DELTA)
        if CORRECTION > 0:
            d = old - tl.load(sampler_T + t, mask=inside, other=0.0)
            correction = bounded(tl.exp(d), importance_min, importance_max, MASKED)
            if CORRECTION == 3:
                correction = row_correction + 0.0 * logp
            through = correction
            if SEQUENTIAL and CORRECTION == 2:  # each token moves the ratio of all
                through = mean_correction + 0.0 * logp
            loss, dlogp = loss * correction, dlogp * through
            tl.store(correction_T + t, correction, mask=inside)
        if KL:
            difference = logp - tl.load(reference_T + t, mask=inside, other=0.0)
            k, dk = kl_term(ratio, difference, mean_k, UNBIASED, SEQUENTIAL)
            loss, dlogp = loss + beta * k, dlogp + beta * dk
        weight = tl.load(weight_T + t, mask=inside, other=0.0)
        tl.store(loss_T + t, loss * weight, mask=inside)
        tl.store(dlogp_T + t, dlogp * weight, mask=inside)


def head_step(
    logits_CV: Tensor, terms: Terms, boost: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """fused.torch_step in one kernel. float32 gradients take the place of the logits."""
    logp_C, entropy_C, loss_C = (logits_CV.new_empty(len(logits_CV)) for _ in range(3))
    out_CV = logits_CV if dtype in (None, torch.float32) else torch.empty_like(logits_CV, dtype=dtype)
    has_old, vocabulary = terms.old_T is not None, logits_CV.shape[1]
    correction_C, source = terms.correction_T, GIVEN
    if correction_C is None:
        source = OFF if terms.spec.importance_correction == "off" else TOKEN
        correction_C = terms.sampler_T
    head_kernel[(len(logits_CV),)](
        logits_CV, out_CV, terms.target_T.contiguous(), logp_C, entropy_C, loss_C,
        _values(terms.old_T, logp_C), _values(correction_C, logp_C), _values(terms.advantage_T, logp_C),
        _values(terms.reference_T, logp_C), _values(terms.weight_T, logp_C), logits_CV.stride(0), vocabulary,
        entropy_weight=terms.entropy_weight, boost=boost, ENTROPY=terms.entropy_weight > 0.0,
        GRADIENT=dtype is not None, HAS_OLD=has_old, CORRECTION=source,
        **map_arguments(terms.logit_map), **_loss_arguments(terms.spec), **launch(vocabulary),
    )  # fmt: skip
    return loss_C.sum(), logp_C, entropy_C, None if dtype is None else out_CV


def completion_loss(
    logp_T: Tensor, old_T: Tensor, micro: MicroBatch, weight_T: Tensor, *, spec: LossSpec
) -> tuple[Tensor, Tensor | None]:
    """token_loss with its correction in one kernel, differentiable in `logp_T`; loss and the correction."""
    loss, correction_T = CompletionLoss.apply(logp_T, old_T, micro, weight_T, spec)
    return loss, None if spec.importance_correction == "off" else correction_T


class CompletionLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logp_T: Tensor, old_T: Tensor, micro: MicroBatch, weight_T: Tensor, spec: LossSpec
    ) -> tuple[Tensor, Tensor]:
        loss_T, dlogp_T, correction_T = (
            torch.empty_like(logp_T, memory_format=torch.contiguous_format) for _ in range(3)
        )
        length_R = torch.bincount(micro.row_T)
        start_R = torch.cat([length_R.new_zeros(1), length_R.cumsum(0)])
        level = spec.importance_correction.partition("_")[0]
        completion_kernel[(len(length_R),)](
            start_R, _values(logp_T, logp_T), _values(old_T, logp_T), _values(micro.sampler_logp_T, logp_T),
            _values(micro.advantage_T, logp_T), _values(micro.reference_logp_T, logp_T), _values(weight_T, logp_T),
            loss_T, dlogp_T, correction_T, BLOCK=BLOCK, SEQUENTIAL=spec.loss_type == "gspo",
            CORRECTION={"off": OFF, "token": TOKEN, "sequence": SEQUENCE}[level], **_loss_arguments(spec),
        )  # fmt: skip
        ctx.save_for_backward(dlogp_T)
        ctx.mark_non_differentiable(correction_T)
        return loss_T.sum(), correction_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * dloss, None, None, None, None


def _values(value_T: Tensor | None, like_T: Tensor) -> Tensor:
    """One float32 a token, side by side; anything where the kernel does not look."""
    return like_T if value_T is None else value_T.to(like_T.dtype).contiguous()


def _loss_arguments(spec: LossSpec) -> dict[str, float | bool | int]:
    return {
        "epsilon": float(spec.epsilon),
        "epsilon_high": float(spec.epsilon_high),
        "delta": 0.0 if spec.delta is None else float(spec.delta),
        "beta": float(spec.beta),
        "importance_min": 0.0 if spec.importance_min is None else float(spec.importance_min),
        "importance_max": float(spec.importance_max),
        "FAMILY": FAMILY.get(spec.loss_type, 0),
        "HAS_DELTA": spec.delta is not None,
        "KL": spec.beta != 0.0,
        "UNBIASED": spec.kl_unbiased,
        "MASKED": spec.importance_correction.endswith("mask"),
    }
