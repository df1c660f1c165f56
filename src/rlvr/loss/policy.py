"""The one loss function that the loop calls, from hidden states to a scalar."""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlvr.batch import MicroBatch
from rlvr.logprob import PLAIN, Impl, LogitMap, resolve, token_logprobs
from rlvr.logprob.fused import rows_within, sum_dtype
from rlvr.loss.correction import dropped, sampler_correction
from rlvr.loss.fused import Step, fused_loss, is_local, local_terms, torch_step
from rlvr.loss.reference import clipped, k3, ratios, token_loss, token_weights
from rlvr.types import LossSpec, Totals


@dataclass(frozen=True)
class LossStats:
    """What a micro-batch tells the log: `sums` by name over its trained tokens and rows, current log-probabilities."""

    logp_T: Tensor
    sums: Tensor
    logp_gap_max: Tensor

    NAMES = ("tokens", "entropy", "clip_low", "clip_high", "kl", "logp_gap", "dropped_tokens", "rows", "dropped_rows")


def policy_loss(
    hidden_TD: Tensor,
    head_VD: Tensor,
    micro: MicroBatch,
    *,
    totals: Totals,
    spec: LossSpec,
    logit_map: LogitMap = PLAIN,
    impl: Impl = "auto",
    chunk_rows: int | None = None,
) -> tuple[Tensor, LossStats]:
    """Loss share of `micro` and its statistics: token_loss, less entropy_bonus times the step's mean entropy.

    Without `micro.old_logp_T` the policy has not moved since it sampled, and old = sg(logp). The other arguments are
    those of token_logprobs. Where a token's gradient needs no other token's log-probability it is computed in the
    forward pass, and the logits of each chunk are made once; else the loss follows on log-probabilities.
    """
    kind = resolve(impl, hidden_TD)
    if kind != "reference" and is_local(spec, has_old=micro.old_logp_T is not None):
        at_temperature = logit_map.at(spec.temperature)
        terms = local_terms(micro, totals=totals, spec=spec, logit_map=at_temperature, dtype=sum_dtype(hidden_TD))
        rows = chunk_rows or rows_within(len(head_VD), hidden_TD.device)
        loss, logp_T, entropy_T = fused_loss(
            hidden_TD, head_VD, terms, step=_step(kind), totals=totals, chunk_rows=rows
        )
        old_T = logp_T if micro.old_logp_T is None else micro.old_logp_T
        correction_T = sampler_correction(old_T, micro.sampler_logp_T, micro.row_T, spec=spec)
        return loss, _statistics(logp_T, old_T, entropy_T, correction_T, micro, spec)
    has_bonus = spec.entropy_bonus > 0.0
    logp_T, entropy_T = token_logprobs(
        hidden_TD,
        head_VD,
        micro.target_T,
        temperature=spec.temperature,
        logit_map=logit_map,
        entropy_gradient=has_bonus,
        impl=kind,
        chunk_rows=chunk_rows,
    )
    old_T = logp_T.detach() if micro.old_logp_T is None else micro.old_logp_T
    loss, correction_T = _loss_on_logprobs(logp_T, old_T, micro, kind, totals=totals, spec=spec)
    if has_bonus:
        loss = loss - spec.entropy_bonus * entropy_T.sum() / max(totals.tokens, 1)
    return loss, _statistics(logp_T.detach(), old_T, entropy_T, correction_T, micro, spec)


def _step(kind: Literal["torch", "triton"]) -> Step:
    if kind == "torch":
        return torch_step
    from rlvr.loss import kernel  # noqa: PLC0415

    return kernel.head_step


def _loss_on_logprobs(
    logp_T: Tensor, old_T: Tensor, micro: MicroBatch, kind: str, *, totals: Totals, spec: LossSpec
) -> tuple[Tensor, Tensor | None]:
    """token_loss and the correction in it."""
    if kind == "triton":
        from rlvr.loss import kernel  # noqa: PLC0415

        weight_T = token_weights(micro.row_T, spec=spec, totals=totals, dtype=logp_T.dtype)
        return kernel.completion_loss(logp_T, old_T, micro, weight_T, spec=spec)
    correction_T = sampler_correction(old_T, micro.sampler_logp_T, micro.row_T, spec=spec)
    loss = token_loss(
        logp_T,
        old_T,
        micro.advantage_T,
        micro.row_T,
        spec=spec,
        totals=totals,
        reference_T=micro.reference_logp_T,
        correction_T=correction_T,
    )
    return loss, correction_T


@torch.no_grad()
def _statistics(
    logp_T: Tensor, old_T: Tensor, entropy_T: Tensor, correction_T: Tensor | None, micro: MicroBatch, spec: LossSpec
) -> LossStats:
    low_T, high_T = clipped(ratios(logp_T, old_T, micro.row_T, spec=spec), micro.advantage_T, spec=spec)
    gap_T = (old_T - micro.sampler_logp_T).abs()
    kl = k3(logp_T, micro.reference_logp_T).sum() if micro.reference_logp_T is not None else logp_T.new_zeros(())
    tokens, rows = logp_T.new_tensor(float(len(logp_T))), micro.row_T[-1] + 1
    no = logp_T.new_zeros(())
    dropped_tokens, dropped_rows = (no, no) if correction_T is None else dropped(correction_T, micro.row_T)
    policy = [entropy_T.sum(), low_T.sum(), high_T.sum(), kl]
    sums = torch.stack([tokens, *policy, gap_T.sum(), dropped_tokens, rows, dropped_rows])
    return LossStats(logp_T, sums, gap_T.max())
