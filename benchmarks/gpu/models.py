"""Models of real shapes with random weights, in NF4 under an adapter, built layer by layer on the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.attention import layout
from rlvr.memory.quantized import decoder_linears, quantized_linear
from rlvr.model.policy import Policy, for_training
from rlvr.plan.settings import Choice, PlanSettings
from rlvr.plan.shapes import Shape, find_shape

SHAPES = Path(__file__).parents[2] / "presets/shapes"
DTYPE = torch.bfloat16
FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "tie_word_embeddings", "max_position_embeddings", "sliding_window", "attention_bias", "mlp_bias",
)  # fmt: skip
TINY = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 256, "vocab_size": 96,
}  # fmt: skip


def shape_named(name: str, *, is_tiny: bool, **changes: Any) -> Shape:
    """A shape of presets/shapes with `changes`; in miniature a small one of the same kind."""
    return replace(find_shape(name, SHAPES), **((TINY | changes) if is_tiny else changes))


def config_of(shape: Shape) -> Any:
    """The transformers config of a shape."""
    return AutoConfig.for_model(shape.model_type, **{name: getattr(shape, name) for name in FIELDS}, pad_token_id=0)


def make_policy(shape: Shape, *, rank: int, device: torch.device) -> Policy:
    """Random weights in NF4 with double quantisation, embeddings in bfloat16, an adapter in float32.

    One matrix exists in 16 bits at a time.
    """
    config = config_of(shape)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPE, attn_implementation=layout.NAME)
    for name, empty in decoder_linears(model).items():
        layer = nn.Linear(
            empty.in_features, empty.out_features, bias=empty.bias is not None, dtype=DTYPE, device=device
        )
        model.set_submodule(name, quantized_linear(name, layer, device))
    model.is_loaded_in_4bit = True  # PEFT asks for it, to take its 4-bit LoRA layer
    _fill(model, device)
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, settings).train()
    return Policy(model, model.get_base_model().get_decoder(), (0,), "auto", None)


def trained(
    policy: Policy, *, tile_rows: int, offload: bool, head_rows: int | None, keep_attention: bool = False
) -> Policy:
    """`policy` as a run trains it; may be called again with other values."""
    return for_training(
        policy, tile_rows=tile_rows, offload=offload, keep_attention=keep_attention, kernels="auto",
        logit_chunk_rows=head_rows,
    )  # fmt: skip


def settings_of(
    *, rank: int, completions: int, prompt_tokens: int, completion_tokens: int, device: torch.device
) -> PlanSettings:
    """The same run for the planner."""
    return PlanSettings(
        method="lora", quantization="nf4", rank=rank, weight_bytes=DTYPE.itemsize, optimizer="adamw_8bit",
        completions=completions, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens,
        has_reference=False, engine="native", recompute="tiles", is_cuda=device.type == "cuda", host_bytes=None,
        completions_per_step=completions, shares_weights=True, has_fp8_cache=False, kept_share=0.0,
        states_on_host=False,
    )  # fmt: skip


def choice_of(*, sequences: int, offload: bool, tile_rows: int, head_rows: int) -> Choice:
    return Choice(
        sequences=sequences, share_prompts=True, offload=offload, tile_rows=tile_rows, head_rows=head_rows,
        kv_sequences=1, states_on_host=False,
    )  # fmt: skip


def _fill(model: Any, device: torch.device) -> None:
    """Give what is still without memory its own: norms of ones, embeddings from a normal distribution, rotations."""
    for module in list(model.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_meta:
                filled = torch.ones(weight.shape, dtype=DTYPE, device=device)
                if weight.dim() > 1:
                    filled.normal_(std=0.02)
                setattr(module, name, nn.Parameter(filled, requires_grad=False))
    model.tie_weights()
    body = model.get_decoder()
    body.rotary_emb = type(body.rotary_emb)(config=model.config).to(device)
    empty = [name for name, x in (*model.named_parameters(), *model.named_buffers()) if x.is_meta]
    assert not empty, f"no memory for {empty}"
