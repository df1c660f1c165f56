"""Tiny models of every architecture, and gradients with and without what is under test."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.attention import PackedLayout
from rlvr.linear import through_onednn
from rlvr.model.policy import Policy
from support.precision import relative

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"mlp_bias": True},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": None},
    "phi3": {"pad_token_id": 0},
    "gemma3_text": {"head_dim": 16, "sliding_window": 64, "query_pre_attn_scalar": 24},
    "olmo2": {},
    "granite": {"attention_multiplier": 0.3, "residual_multiplier": 0.7},
}
SHAPE = {
    "vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "max_position_embeddings": 256,
}  # fmt: skip


def exact_norm(self: Any, x: Tensor) -> Any:
    """RMSNorm in the precision of its input: those of transformers round to float32, also in float64 models."""
    is_gemma = "Gemma" in type(self).__name__
    scaled = x * (x.square().mean(-1, keepdim=True) + (self.eps if is_gemma else self.variance_epsilon)).rsqrt()
    return scaled * (1.0 + self.weight if is_gemma else self.weight)


def plain_model(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A transformers model with random weights, all trained."""
    config = AutoConfig.for_model(family, **(SHAPE | FAMILIES[family] | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="rlvr", dtype=dtype).train()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def make_model(family: str, *, adapter: bool, dtype: torch.dtype, **changes: Any) -> Policy:
    """A policy of a family with random weights, all of them trained or with an adapter that has an effect."""
    config = AutoConfig.for_model(family, **(SHAPE | FAMILIES[family] | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="rlvr")
    if adapter:
        settings = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, settings)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model = model.to(dtype).train()
    through_onednn(model)
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = MethodType(exact_norm, module)
    base = model.get_base_model() if adapter else model
    return Policy(model, base.get_decoder(), (0,), "auto", None)


def stream() -> tuple[Tensor, Tensor, PackedLayout]:
    """Two prompts and the three completions that share them: 22 tokens."""
    layout = PackedLayout([5, 3], [7, 4, 3], [0, 0, 1], torch.device("cpu"))
    position_S = torch.cat([torch.arange(5), torch.arange(3), *(torch.arange(5, 5 + n) for n in (7, 4)),
                            torch.arange(3, 6)])  # fmt: skip
    return torch.randint(0, 50, (22,), generator=torch.Generator().manual_seed(1)), position_S, layout


def gradients(policy: Policy, inputs: tuple[Tensor, Tensor, PackedLayout] | None = None) -> dict[str, Tensor]:
    """The gradient of every trained parameter, and `output`, for a fixed direction of the final hidden states."""
    policy.model.zero_grad()
    hidden_SD = policy.hidden_stream(*(inputs or stream()))
    direction = torch.randn(hidden_SD.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.autograd.backward(hidden_SD, direction.to(hidden_SD.dtype))
    found = {name: weight.grad.clone() for name, weight in policy.trainable().items() if weight.grad is not None}
    return found | {"output": hidden_SD.detach()}


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest ‖Δ‖/‖g‖ over parameters."""
    assert found.keys() == expected.keys()
    return max(relative(found[name], g) for name, g in expected.items())
