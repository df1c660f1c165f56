"""What a model does with its logits before the softmax: soft-cap and scale by its config, compared with the model."""
# S tokens · V vocabulary

from __future__ import annotations

from typing import Any

import torch

from rlvr.attention import PackedLayout
from rlvr.logprob import LogitMap
from rlvr.model.probe import refused
from rlvr.types import UserError

PROBE_TOKENS = 4


def logit_map(config: Any) -> LogitMap:
    """From the product of hidden states and head to logits: y = cap·tanh(scale·x/cap), without a cap scale·x.

    A transformers config names them final_logit_softcapping (Gemma), logit_scale (Cohere, which multiplies) and
    logits_scaling (Granite, which divides).
    """
    text = config.get_text_config()
    soft_cap: float | None = getattr(text, "final_logit_softcapping", None)
    multiplier, divisor = (getattr(text, key, None) for key in ("logit_scale", "logits_scaling"))
    return LogitMap(soft_cap=soft_cap, scale=(1.0 if multiplier is None else multiplier) / (divisor or 1.0))


def check_head(model: Any, *, name: str) -> None:
    """Raises UserError where the model's log-probabilities would not be those that are computed here.

    On a few tokens its own logits must be those of its head under logit_map, to the rounding of its type.
    """
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        raise UserError(f"{name}: attn_logit_softcapping is not supported, attention here has no soft-cap")
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise UserError(f"{name}: models whose head has a bias are not supported")
    with refused(model, name):
        product_SV, own_SV = _probe(model, head)
    if not bool(own_SV.isfinite().all()):
        raise UserError(
            f"{name}: its logits are not finite, so its weights hold NaN or infinity, or are too large for "
            f"{model.dtype}: download it again, or use another compute.dtype"
        )
    expected_SV = logit_map(model.config).apply_(product_SV)
    if not bool((own_SV - expected_SV).norm() <= 4 * torch.finfo(model.dtype).eps * expected_SV.norm()):
        raise UserError(
            f"{name}: {type(model).__name__} changes its logits in another way than by final_logit_softcapping, "
            "logit_scale (times) or logits_scaling (divided by), so its log-probabilities would be wrong here"
        )


@torch.no_grad()
def _probe(model: Any, head: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head gives for a few tokens, and the logits that the model makes of it; both in at least float32."""
    products: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, __, output: products.append(output.detach().clone()))
    device = next(head.parameters()).device
    position_S = torch.arange(PROBE_TOKENS, device=device)
    token_S = position_S % model.config.get_text_config().vocab_size
    layout = PackedLayout([], [PROBE_TOKENS], [0], device)
    try:
        own = model(input_ids=token_S[None], position_ids=position_S[None], use_cache=False, layout=layout).logits
    finally:
        hook.remove()
    (product,) = products
    return at_least_float32(product), at_least_float32(own)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
