"""The one loss function that the loop calls, from hidden states to a scalar."""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.batch import MicroBatch
from rlvr.logprob import token_logprobs
from rlvr.loss.correction import dropped, sampler_correction
from rlvr.loss.reference import clipped, k3, ratios, token_loss
from rlvr.types import LossSpec, Totals


@dataclass(frozen=True)
class LossStats:
    """What a micro-batch tells the log: `sums` by name over its trained tokens and rows, current log-probabilities."""

    logp_T: Tensor
    sums: Tensor
    logp_gap_max: Tensor

    NAMES = ("tokens", "entropy", "clip_low", "clip_high", "kl", "logp_gap", "dropped_tokens", "rows", "dropped_rows")


def policy_loss(
    hidden_TD: Tensor, head_VD: Tensor, micro: MicroBatch, *, totals: Totals, spec: LossSpec
) -> tuple[Tensor, LossStats]:
    """Loss share of `micro` and its statistics: token_loss, less entropy_bonus times the step's mean entropy.

    Without `micro.old_logp_T` the policy has not moved since it sampled, and old = sg(logp).
    """
    has_bonus = spec.entropy_bonus > 0.0
    logp_T, entropy_T = token_logprobs(
        hidden_TD, head_VD, micro.target_T, temperature=spec.temperature, entropy_gradient=has_bonus
    )
    old_T = logp_T.detach() if micro.old_logp_T is None else micro.old_logp_T
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
    if has_bonus:
        loss = loss - spec.entropy_bonus * entropy_T.sum() / max(totals.tokens, 1)
    return loss, _statistics(logp_T.detach(), old_T, entropy_T, correction_T, micro, spec)


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
