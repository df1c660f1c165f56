"""The definition, in plain torch: it makes the logits of every token."""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rlvr.linear import linear
from rlvr.logprob.rows import LogitMap


def token_logprobs(
    hidden_TD: Tensor,
    head_VD: Tensor,
    target_T: Tensor,
    *,
    logit_map: LogitMap,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """rlvr.logprob.token_logprobs by autograd, all logits at once."""
    logits_TV = linear(hidden_TD, head_VD)
    if logits_TV.dtype != torch.float64:
        logits_TV = logits_TV.float()
    if logit_map.scale != 1.0:
        logits_TV = logits_TV * logit_map.scale
    if (cap := logit_map.soft_cap) is not None:
        logits_TV = cap * (logits_TV / cap).tanh()
    if logit_map.temperature != 1.0:
        logits_TV = logits_TV / logit_map.temperature
    logp_TV = F.log_softmax(logits_TV, dim=-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy_T = -(logp_TV.exp() * logp_TV).sum(-1)
    return logp_TV.gather(-1, target_T[:, None])[:, 0], entropy_T
