"""The definition, in plain torch: it makes the logits of every token."""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rlvr.linear import linear


def token_logprobs(
    hidden_TD: Tensor,
    head_VD: Tensor,
    target_T: Tensor,
    *,
    temperature: float,
    soft_cap: float | None = None,
    logit_scale: float = 1.0,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """rlvr.logprob.token_logprobs by autograd, all logits at once."""
    logits_TV = linear(hidden_TD, head_VD)
    if logits_TV.dtype != torch.float64:
        logits_TV = logits_TV.float()
    if logit_scale != 1.0:
        logits_TV = logits_TV * logit_scale
    if soft_cap is not None:
        logits_TV = soft_cap * (logits_TV / soft_cap).tanh()
    if temperature != 1.0:
        logits_TV = logits_TV / temperature
    logp_TV = F.log_softmax(logits_TV, dim=-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy_T = -(logp_TV.exp() * logp_TV).sum(-1)
    return logp_TV.gather(-1, target_T[:, None])[:, 0], entropy_T
