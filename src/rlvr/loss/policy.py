"""The one loss function that the loop calls, from hidden states to a scalar."""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.batch import MicroBatch
from rlvr.logprob import token_logprobs
from rlvr.loss.reference import clipped, k3, ratios, token_loss
from rlvr.types import LossSpec, Totals


@dataclass(frozen=True)
class LossStats:
    """What a micro-batch tells the log. `sums`: sums over its trained tokens; `logp_T`: current log-probabilities."""

    logp_T: Tensor
    sums: Tensor
    logp_gap_max: Tensor

    NAMES = ("tokens", "entropy", "clip_low", "clip_high", "kl", "logp_gap")


def policy_loss(
    hidden_TD: Tensor, head_VD: Tensor, micro: MicroBatch, *, totals: Totals, spec: LossSpec
) -> tuple[Tensor, LossStats]:
    """Loss share of `micro` and its statistics.

    Without `micro.old_logp_T` the policy has not moved since it sampled, and old = sg(logp).
    """
    logp_T, entropy_T = token_logprobs(hidden_TD, head_VD, micro.target_T, temperature=spec.temperature)
    old_T = logp_T.detach() if micro.old_logp_T is None else micro.old_logp_T
    loss = token_loss(
        logp_T,
        old_T,
        micro.advantage_T,
        micro.row_T,
        spec=spec,
        totals=totals,
        reference_T=micro.reference_logp_T,
    )
    return loss, _statistics(logp_T.detach(), old_T, entropy_T, micro, spec)


@torch.no_grad()
def _statistics(logp_T: Tensor, old_T: Tensor, entropy_T: Tensor, micro: MicroBatch, spec: LossSpec) -> LossStats:
    low_T, high_T = clipped(ratios(logp_T, old_T, micro.row_T, spec=spec), micro.advantage_T, spec=spec)
    gap_T = (old_T - micro.sampler_logp_T).abs()
    kl = k3(logp_T, micro.reference_logp_T).sum() if micro.reference_logp_T is not None else logp_T.new_zeros(())
    tokens = logp_T.new_tensor(float(len(logp_T)))
    sums = torch.stack([tokens, entropy_T.sum(), low_T.sum(), high_T.sum(), kl, gap_T.sum()])
    return LossStats(logp_T, sums, gap_T.max())
