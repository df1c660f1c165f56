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
    correction_T: Tensor | None = None,
) -> Tensor:
    """The micro-batch's share of the loss of the whole optimizer step, a scalar: shares add up.

    The sum over its tokens of token_terms times token_weights. A micro-batch holds whole rows, on which gspo depends.
    """
    g_T = token_terms(logp_T, old_T, advantage_T, row_T, spec=spec, reference_T=reference_T, correction_T=correction_T)
    return (g_T * token_weights(row_T, spec=spec, totals=totals, dtype=g_T.dtype)).sum()


def token_terms(
    logp_T: Tensor,
    old_T: Tensor,
    advantage_T: Tensor,
    row_T: Tensor,
    *,
    spec: LossSpec,
    reference_T: Tensor | None = None,
    correction_T: Tensor | None = None,
) -> Tensor:
    """Per token c·g, the policy term with the sampler's correction, plus beta·K·w (beta·K without `kl_unbiased`). [T]

    w is the ratio, its gradient included, and K = exp(ref − logp) − (ref − logp) − 1.
    """
    ratio_T = ratios(logp_T, old_T, row_T, spec=spec)
    g_T = policy_term(ratio_T, logp_T, advantage_T, spec=spec)
    if correction_T is not None:
        g_T = g_T * correction_T
    if spec.beta:
        assert reference_T is not None, "beta needs the log-probabilities of the reference policy"
        kl_T = k3(logp_T, reference_T)
        g_T = g_T + spec.beta * (kl_T * ratio_T if spec.kl_unbiased else kl_T)
    return g_T


def ratios(logp_T: Tensor, old_T: Tensor, row_T: Tensor, *, spec: LossSpec) -> Tensor:
    """w = exp(logp − old); for gspo the exponent is its mean over the row's tokens (2507.18071, eq. 7). [T]"""
    log_ratio_T = logp_T - old_T
    if spec.loss_type == "gspo":
        log_ratio_T = (row_sum(log_ratio_T, row_T) / torch.bincount(row_T))[row_T]
    return log_ratio_T.exp()


def policy_term(ratio_T: Tensor, logp_T: Tensor, advantage_T: Tensor, *, spec: LossSpec) -> Tensor:
    """g of each token, [T]. With u = min(w, delta):

    grpo, bnpo, dr_grpo, dapo, gspo: g = −min(u·A, clip(w, 1 − epsilon, 1 + epsilon_high)·A)
    cispo: g = −sg[min(w, epsilon_high)]·A·logp
    sapo: g = −(4/τ)·σ(τ·(w − 1))·A, τ = 1 where A > 0, else 1.05
    Sources: GRPO 2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, GSPO 2507.18071, CISPO 2506.13585,
    SAPO 2511.20347, delta: INTELLECT-2 2505.07291.
    """
    if spec.loss_type == "cispo":
        return -ratio_T.detach().clamp(max=spec.epsilon_high) * advantage_T * logp_T
    if spec.loss_type == "sapo":
        tau_T = torch.full_like(ratio_T, 1.05).masked_fill(advantage_T > 0, 1.0)
        return -4.0 / tau_T * (tau_T * (ratio_T - 1.0)).sigmoid() * advantage_T
    unclipped_T = ratio_T if spec.delta is None else ratio_T.clamp(max=spec.delta)
    clipped_T = ratio_T.clamp(1.0 - spec.epsilon, 1.0 + spec.epsilon_high)
    return -torch.minimum(unclipped_T * advantage_T, clipped_T * advantage_T)


def clipped(ratio_T: Tensor, advantage_T: Tensor, *, spec: LossSpec) -> tuple[Tensor, Tensor]:
    """Where the clip holds the policy back: below (A < 0) and above (A > 0). cispo clips above only, sapo nowhere."""
    nowhere_T = torch.zeros_like(advantage_T, dtype=torch.bool)
    if spec.loss_type == "sapo":
        return nowhere_T, nowhere_T
    if spec.loss_type == "cispo":
        return nowhere_T, (ratio_T > spec.epsilon_high) & (advantage_T > 0)
    return (ratio_T < 1.0 - spec.epsilon) & (advantage_T < 0), (ratio_T > 1.0 + spec.epsilon_high) & (advantage_T > 0)


def k3(logp_T: Tensor, reference_T: Tensor) -> Tensor:
    """exp(ref − logp) − (ref − logp) − 1: at least 0, with the reverse KL as its mean over samples of the policy."""
    difference_T = reference_T - logp_T
    return difference_T.exp() - difference_T - 1.0


def token_weights(row_T: Tensor, *, spec: LossSpec, totals: Totals, dtype: torch.dtype) -> Tensor:
    """The aggregation weight of each trained token, with counts of the whole optimizer step. [T]

    grpo, gspo and sapo 1/(n_i·B), dr_grpo 1/(B·L_max), bnpo, dapo and cispo 1/N; n_i trained tokens of row i,
    B rows, N tokens.
    """
    if spec.loss_type in ("grpo", "gspo", "sapo"):
        length_R = torch.bincount(row_T).to(dtype)
        return 1.0 / (length_R * totals.rows)[row_T]
    if spec.loss_type == "dr_grpo":
        weight = 1.0 / (totals.rows * spec.max_completion_tokens)
    else:
        weight = 1.0 / max(totals.tokens, 1)
    return torch.full(row_T.shape, weight, dtype=dtype, device=row_T.device)


def row_sum(value_T: Tensor, row_T: Tensor) -> Tensor:
    """Sum over the tokens of each row. [R]"""
    num_rows = int(row_T.max()) + 1
    return value_T.new_zeros(num_rows).index_add(0, row_T, value_T)
