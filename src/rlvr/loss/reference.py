"""The definition of every loss, in plain torch on log-probabilities."""
# T trained tokens of a micro-batch

from __future__ import annotations

import torch
from torch import Tensor

from rlvr.types import LossSpec, Totals


def token_loss(
    logp_T: Tensor,
    old_T: Tensor,
    advantage_T: Tensor,
    row_T: Tensor,
    *,
    spec: LossSpec,
    totals: Totals,
    reference_T: Tensor | None = None,
) -> Tensor:
    """The micro-batch's share of the loss of the whole optimizer step, a scalar: shares add up.

    w = exp(logp − old), u = min(w, delta), and per token
    grpo, bnpo, dr_grpo, dapo: g = −min(u·A, clip(w, 1 − epsilon, 1 + epsilon_high)·A)
    cispo: g = −sg[min(w, epsilon_high)]·A·logp
    plus beta·K·w (beta·K without `kl_unbiased`), K = exp(ref − logp) − (ref − logp) − 1.
    Sources: GRPO 2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, CISPO 2506.13585, delta: INTELLECT-2 2505.07291.
    """
    ratio_T = (logp_T - old_T).exp()
    if spec.loss_type == "cispo":
        g_T = -ratio_T.detach().clamp(max=spec.epsilon_high) * advantage_T * logp_T
    else:
        unclipped_T = ratio_T if spec.delta is None else ratio_T.clamp(max=spec.delta)
        clipped_T = ratio_T.clamp(1.0 - spec.epsilon, 1.0 + spec.epsilon_high)
        g_T = -torch.minimum(unclipped_T * advantage_T, clipped_T * advantage_T)
    if spec.beta:
        assert reference_T is not None, "beta needs the log-probabilities of the reference policy"
        kl_T = k3(logp_T, reference_T)
        g_T = g_T + spec.beta * (kl_T * ratio_T if spec.kl_unbiased else kl_T)
    return (g_T * token_weights(row_T, spec=spec, totals=totals, dtype=g_T.dtype)).sum()


def k3(logp_T: Tensor, reference_T: Tensor) -> Tensor:
    """exp(ref − logp) − (ref − logp) − 1: at least 0, with the reverse KL as its mean over samples of the policy."""
    difference_T = reference_T - logp_T
    return difference_T.exp() - difference_T - 1.0


def token_weights(row_T: Tensor, *, spec: LossSpec, totals: Totals, dtype: torch.dtype) -> Tensor:
    """The aggregation weight of each trained token, with counts of the whole optimizer step. [T]

    grpo 1/(n_i·B), dr_grpo 1/(B·L_max), bnpo, dapo and cispo 1/N; n_i trained tokens of row i, B rows, N tokens.
    """
    if spec.loss_type == "grpo":
        length_R = torch.bincount(row_T).to(dtype)
        return 1.0 / (length_R * totals.rows)[row_T]
    if spec.loss_type == "dr_grpo":
        weight = 1.0 / (totals.rows * spec.max_completion_tokens)
    else:
        weight = 1.0 / max(totals.tokens, 1)
    return torch.full(row_T.shape, weight, dtype=dtype, device=row_T.device)
