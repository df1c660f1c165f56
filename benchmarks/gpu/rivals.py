"""The head and the loss as others compute them, for comparison."""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Head = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # hidden, head, target → log-probability, entropy
ROWS = 8  # completions of equal length that the tokens make
ENTROPY_ROWS = 128  # TRL's chunk


def naive(hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor]:
    """log_softmax of the float32 of 16-bit logits, all at once."""
    logp_TV = (hidden_TD @ head_VD.T).float().log_softmax(-1)
    with torch.no_grad():
        entropy_T = -(logp_TV.exp() * logp_TV).sum(-1)
    return logp_TV.gather(1, target_T[:, None])[:, 0], entropy_T


def trl() -> tuple[str, Head]:
    """TRL's way with the logits of a batch, and whether it is TRL's own function or its formula."""
    try:
        from trl.trainer.utils import selective_log_softmax_and_entropy as theirs  # noqa: PLC0415
    except ImportError:
        return "TRL 1.16's formula", trl_formula

    def imported(hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor]:
        logits = (hidden_TD @ head_VD.T)[None]
        logp, entropy = theirs(logits, target_T[None], entropy_requires_grad=False)
        return logp[0], entropy[0]

    return "TRL's function", imported


def trl_formula(hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor]:
    """What TRL 1.16 does where its own kernel does not apply (trl/trainer/utils.py): log_softmax in the logits' type.

    float32 takes logit − logsumexp instead. The entropy goes over 128 rows at a time.
    """
    logits_TV = hidden_TD @ head_VD.T
    if logits_TV.dtype == torch.float32:
        logp_T = logits_TV.gather(1, target_T[:, None])[:, 0] - logits_TV.logsumexp(-1)
    else:
        logp_T = F.log_softmax(logits_TV, dim=-1).gather(1, target_T[:, None])[:, 0]
    with torch.no_grad():
        entropy_T = torch.cat([_entropy(part_CV) for part_CV in torch.split(logits_TV, ENTROPY_ROWS)])
    return logp_T, entropy_T


def liger(
    target_T: Tensor, advantage_T: Tensor, old_T: Tensor, *, compiled: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """Liger's fused linear GRPO loss of the dapo type, (hidden, head) → loss. Raises ImportError without Liger."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss  # noqa: PLC0415

    loss_of = LigerFusedLinearGRPOLoss(
        beta=0.0, compiled=compiled, use_ref_model=False, epsilon_low=0.2, epsilon_high=0.28, loss_type="dapo"
    )
    target, old = target_T.view(ROWS, -1), old_T.view(ROWS, -1)
    advantage, mask = advantage_T.view(ROWS, -1)[:, 0], torch.ones_like(old)

    def loss(hidden_TD: Tensor, head_VD: Tensor) -> Tensor:
        hidden = hidden_TD.view(ROWS, -1, hidden_TD.shape[-1])
        found: Tensor = loss_of(hidden, head_VD, target, mask, advantage, old_per_token_logps=old)[0]
        return found

    return loss


def _entropy(logits_CV: Tensor) -> Tensor:
    logp_CV = F.log_softmax(logits_CV, dim=-1)
    return -(logp_CV.exp() * logp_CV).sum(-1)
