"""The definition, in plain torch: it makes the logits of every token."""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rlvr.linear import linear


def token_logprobs(
    hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, *, temperature: float, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, at `temperature`.

    logp = log_softmax(h·Wᵀ / temperature)[target], H = −Σ p·log p; both [T], at least float32 (float64 in, float64
    out). Differentiable in logp with respect to `hidden_TD` and `head_VD`; the entropy carries a gradient,
    dH/dlogits = −p·(log p + H)/temperature, only with `entropy_gradient`: without, less is kept for the backward pass.
    """
    logits_TV = linear(hidden_TD, head_VD)
    if logits_TV.dtype != torch.float64:
        logits_TV = logits_TV.float()
    if temperature != 1.0:
        logits_TV = logits_TV / temperature
    logp_TV = F.log_softmax(logits_TV, dim=-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy_T = -(logp_TV.exp() * logp_TV).sum(-1)
    return logp_TV.gather(-1, target_T[:, None])[:, 0], entropy_T
