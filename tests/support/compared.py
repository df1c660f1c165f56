"""Tiny models of every class that was compared with its own forward pass, in training and in the native sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.attention.recurrent import carry
from rlvr.model.policy import Policy
from rlvr.model.probe import packed_and_own
from rlvr.sampler.probe import sampled_and_own

SHAPE = {
    "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 256, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "shared_expert_intermediate_size": 32}  # fmt: skip
DELTA_NET = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
             "linear_num_value_heads": 4}  # fmt: skip
PLAIN = (
    "apertus", "arcee", "bitnet", "cohere", "cohere2", "cohere2_moe", "cwm", "ernie4_5", "exaone4", "flex_olmo",
    "gemma", "gemma3_text", "glm", "glm4", "gpt_neox", "granite", "granite_swa", "granitemoe", "granitemoe_swa",
    "granitemoeshared", "hyperclovax", "jais2", "llama", "minimax_m2", "ministral3", "mistral", "mixtral", "nanochat",
    "olmo", "olmo2", "olmo3", "olmoe", "persimmon", "phi3", "phimoe", "qwen2", "qwen3", "seed_oss", "smollm3",
    "starcoder2",
)  # fmt: skip
CLASSES: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in PLAIN},
    "gpt_oss": {"head_dim": 16, **EXPERTS},
    "olmo_hybrid": DELTA_NET,
    "qwen2_moe": EXPERTS,
    "qwen3_moe": {"head_dim": 16, **EXPERTS},
    "qwen3_5_text": {"head_dim": 16, **DELTA_NET},
    "qwen3_5_moe_text": {"head_dim": 16, **DELTA_NET, **EXPERTS},
    "qwen3_next": {"head_dim": 16, **DELTA_NET, **EXPERTS},
}


@dataclass(frozen=True)
class Worst:
    """Of two tables of log-probabilities the largest distance in nats, and where it is."""

    nats: float
    token: int
    word: int

    def __str__(self) -> str:
        return f"{self.nats:.1e} nats off at token {self.token}, word {self.word}"


def distances(kind: str) -> tuple[str, Worst, Worst]:
    """The class, and how far packed rows and the native sampler are from the model itself, in float32."""
    model = build(kind)
    policy = Policy(model, model.get_decoder(), (1,), "auto", None)
    packed, native = packed_and_own(model)[:2], sampled_and_own(policy)
    return type(model).__name__, _worst(*packed), _worst(*native)


def _worst(found_TV: Tensor, own_TV: Tensor) -> Worst:
    distance_TV = (found_TV.log_softmax(-1) - own_TV.log_softmax(-1)).abs().nan_to_num(nan=torch.inf)
    token, word = divmod(int(distance_TV.argmax()), distance_TV.shape[1])
    return Worst(distance_TV[token, word].item(), token, word)


def build(kind: str) -> Any:
    """A model whose every weight has an effect."""
    config = AutoConfig.for_model(kind, **(SHAPE | CLASSES[kind]))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="rlvr").eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    carry(model)
    return model
