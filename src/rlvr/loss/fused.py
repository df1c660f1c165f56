"""Loss and gradient in one pass over the head, where a token's gradient needs no other token's log-probability."""
# T trained tokens · C tokens of a chunk · D hidden · V vocabulary

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlvr.batch import MicroBatch
from rlvr.logprob import LogitMap, rows
from rlvr.logprob.fused import Gradients, chunks, logits, sum_dtype
from rlvr.loss.correction import sampler_correction
from rlvr.loss.reference import token_terms, token_weights
from rlvr.types import LossSpec, Totals


@dataclass(frozen=True)
class Terms:
    """What the loss of each token needs besides its logits.

    Without `old_T` the policy has not moved, and a correction comes from `sampler_T`. The weights of the loss and of
    the entropy are multiplied by `boost`, a power of two near the number of tokens, so that no gradient of a logit is
    lost in 16 bit; loss values are not.
    """

    target_T: Tensor
    row_T: Tensor
    advantage_T: Tensor
    sampler_T: Tensor
    old_T: Tensor | None
    reference_T: Tensor | None
    correction_T: Tensor | None
    weight_T: Tensor
    entropy_weight: float
    spec: LossSpec
    logit_map: LogitMap

    def part(self, part: slice) -> Terms:
        """The terms of some of the tokens."""
        optional = (self.old_T, self.reference_T, self.correction_T)
        old_C, reference_C, correction_C = (None if value_T is None else value_T[part] for value_T in optional)
        return replace(
            self,
            target_T=self.target_T[part],
            row_T=self.row_T[part],
            advantage_T=self.advantage_T[part],
            sampler_T=self.sampler_T[part],
            old_T=old_C,
            reference_T=reference_C,
            correction_T=correction_C,
            weight_T=self.weight_T[part],
        )


Step = Callable[[Tensor, Terms, float, torch.dtype | None], tuple[Tensor, Tensor, Tensor, Tensor | None]]


def is_local(spec: LossSpec, *, has_old: bool) -> bool:
    """Whether a token's gradient needs no other token's current log-probability.

    The sequence modes of the correction sum old over the row, which is the current one where there is no other. gspo
    is grpo where the policy has not moved, but for the row means of K·w and of the correction.
    """
    if spec.loss_type == "gspo":
        return not has_old and spec.importance_correction == "off" and not (spec.beta and spec.kl_unbiased)
    return has_old or not spec.importance_correction.startswith("sequence")


def local_terms(micro: MicroBatch, *, totals: Totals, spec: LossSpec, logit_map: LogitMap, dtype: torch.dtype) -> Terms:
    """The terms of `micro`, for a loss that is local."""
    correction_T = None
    if micro.old_logp_T is not None:
        correction_T = sampler_correction(micro.old_logp_T, micro.sampler_logp_T, micro.row_T, spec=spec)
    return Terms(
        target_T=micro.target_T,
        row_T=micro.row_T,
        advantage_T=micro.advantage_T,
        sampler_T=micro.sampler_logp_T,
        old_T=micro.old_logp_T,
        reference_T=micro.reference_logp_T if spec.beta else None,
        correction_T=correction_T,
        weight_T=token_weights(micro.row_T, spec=spec, totals=totals, dtype=dtype),
        entropy_weight=spec.entropy_bonus / max(totals.tokens, 1),
        spec=replace(spec, loss_type="grpo") if spec.loss_type == "gspo" else spec,
        logit_map=logit_map,
    )


def fused_loss(
    hidden_TD: Tensor, head_VD: Tensor, terms: Terms, *, step: Step, totals: Totals, chunk_rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, log-probabilities and entropies; the gradient is computed on the way, by `step` chunk by chunk."""
    boost = 2.0 ** max(totals.tokens, 1).bit_length()
    loss, logp_T, entropy_T = FusedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_TD, head_VD, terms, step, boost, chunk_rows, torch.is_grad_enabled()
    )
    return loss, logp_T, entropy_T


class FusedLoss(torch.autograd.Function):
    """[T, D], [V, D] → loss, logp_T, entropy_T; keeps dH and, for a trained head, dW."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        terms: Terms,
        step: Step,
        boost: float,
        chunk_rows: int,
        has_graph: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_hidden, needs_head = (has_graph and needed for needed in ctx.needs_input_grad[:2])
        gradients = Gradients(hidden_TD, head_VD, needs_hidden=needs_hidden, needs_head=needs_head)
        dtype = hidden_TD.dtype if needs_hidden or needs_head else None
        logp_T, entropy_T = (hidden_TD.new_empty(len(hidden_TD), dtype=sum_dtype(hidden_TD)) for _ in range(2))
        loss = logp_T.new_zeros(())
        for part in chunks(len(hidden_TD), chunk_rows):
            share, logp_T[part], entropy_T[part], dlogits_CV = step(
                logits(hidden_TD[part], head_VD), terms.part(part), boost, dtype
            )
            loss += share
            if dlogits_CV is not None:
                gradients.add(part, dlogits_CV)
            del dlogits_CV
        ctx.boost, ctx.dtypes = boost, (hidden_TD.dtype, head_VD.dtype)
        ctx.save_for_backward(gradients.dhidden_TD, gradients.head())
        ctx.mark_non_differentiable(logp_T, entropy_T)
        return loss, logp_T, entropy_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        scale = dloss / ctx.boost
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        scaled = [None if gradient is None else gradient.mul_(scale).to(dtype) for gradient, dtype in saved]
        return *scaled, *(None,) * 5


def torch_step(
    logits_CV: Tensor, terms: Terms, boost: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Loss, log-probabilities, entropies and boosted gradient of the logits (none without `dtype`) of a chunk."""
    spec, has_bonus = terms.spec, terms.entropy_weight > 0.0
    logp_C, entropy_C, state = rows.statistics(logits_CV, terms.target_T, terms.logit_map, entropy_gradient=has_bonus)
    with torch.enable_grad():
        leaf_C = logp_C.detach().requires_grad_()
        old_C, correction_C = terms.old_T, terms.correction_T
        if old_C is None:
            old_C = logp_C
            correction_C = sampler_correction(old_C, terms.sampler_T, terms.row_T, spec=spec)
        term_C = token_terms(
            leaf_C, old_C, terms.advantage_T, terms.row_T,
            spec=spec, reference_T=terms.reference_T, correction_T=correction_C,
        )  # fmt: skip
        loss = (term_C * terms.weight_T).sum()
        boosted = loss * boost
    value = loss.detach()
    if has_bonus:
        value = value - terms.entropy_weight * entropy_C.sum()
    if dtype is None:
        return value, logp_C, entropy_C, None
    (dlogp_C,) = torch.autograd.grad(boosted, leaf_C)
    dentropy_C = torch.full_like(entropy_C, -terms.entropy_weight * boost) if has_bonus else None
    dlogits_CV = rows.gradient(state, terms.target_T, dlogp_C, dentropy_C, terms.logit_map, dtype)
    return value, logp_C, entropy_C, dlogits_CV
