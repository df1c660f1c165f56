"""One GRPO step of every architecture that has a preset: its very class, tiny, LoRA on plain and on NF4 weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr import grpo
from rlvr.batch import MiniBatch, pack
from rlvr.config import Config, parse_yaml
from rlvr.model.policy import Policy, load_tokenizer
from rlvr.plan.shapes import find_shape
from rlvr.runtime.meter import Meter
from rlvr.stages.resolve import resolve_training
from rlvr.training.optim import Optimizer
from rlvr.types import Group
from support.loading import load, trained_as
from support.precision import assert_close_where, assert_relative

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'rlvr[qlora]'")

FOLDER = Path(__file__).parents[2] / "presets"
LLAMA3 = {"rope_theta": 500000.0, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_theta": 1000000.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
# What the config of each preset's model says beyond the usual, in small. phi3: Phi-4-mini rotates a part of each head.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3-4B": ("Qwen3ForCausalLM", {"head_dim": 32, "tie_word_embeddings": True}),
    "DeepSeek-R1-0528-Qwen3-8B": ("Qwen3ForCausalLM", {"head_dim": 16, "rope_parameters": YARN}),
    "Llama-3.2-3B": ("LlamaForCausalLM", {"tie_word_embeddings": True, "rope_parameters": LLAMA3 | {"factor": 32.0}}),
    "Llama-3.1-8B": ("LlamaForCausalLM", {"tie_word_embeddings": False, "rope_parameters": LLAMA3 | {"factor": 8.0}}),
    "Gemma-3-1B": ("Gemma3ForCausalLM", {
        "head_dim": 32, "num_key_value_heads": 1, "query_pre_attn_scalar": 32, "sliding_window": 64,
        "layer_types": GEMMA_LAYERS, "rope_parameters": GEMMA_ROPES, "hidden_activation": "gelu_pytorch_tanh"}),
    "Phi-4": ("Phi3ForCausalLM", {"head_dim": 16, "rope_parameters": {
        "rope_type": "default", "rope_theta": 250000.0, "partial_rotary_factor": 0.75}}),
    "Qwen2.5-3B": ("Qwen2ForCausalLM", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "Qwen2.5-1.5B": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "Mistral-7B-v0.3": ("MistralForCausalLM", {"sliding_window": None, "tie_word_embeddings": False}),
}  # fmt: skip
TOLERANCE = {"none": 1e-5, "nf4": 2e-5}
RECIPE = {
    "model.adapter": "lora", "model.lora.rank": 4, "model.lora.alpha": 6, "grpo.passes_per_rollout": 1,
    "grpo.learning_rate": 1.0e-2, "prepare.max_prompt_tokens": 8, "rollout.max_completion_tokens": 12,
    "rollout.max_logp_gap": None,  # these completions were not sampled from the policy
    "memory.tokens_per_micro_batch": 22,
    "memory.tile_rows": 6, "memory.logit_chunk_rows": 5,
}  # fmt: skip


class Recorded(Optimizer):
    """The optimizer, and the gradients of its one step before they are clipped."""

    gradients: list[Tensor]

    def step_clipped(self, max_norm: float) -> float | None:
        self.gradients = [weight.grad.clone() for weight in self.parameters if weight.grad is not None]
        return super().step_clipped(max_norm)


@pytest.fixture
def open_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base: Callable[[str], Path]
) -> Callable[[str], Path]:
    """The folder of a tiny random model of the class that a shape of presets/shapes has."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"tiny-{name}"
        if folder.exists():
            return folder
        tokenizer, (_, features) = load_tokenizer(base("llama")), MODELS[name]
        shape = {
            "vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64,
            "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id,
        }  # fmt: skip
        config = AutoConfig.for_model(find_shape(name, FOLDER / "shapes").model_type, **(shape | features))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def open_policy(cfg: Config, folder: Path) -> Policy:
    """The policy, with an adapter that has an effect, so that every part of it has a gradient."""
    policy = load(cfg, folder)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return policy


def minibatch_of(groups: Sequence[Group]) -> MiniBatch:
    advantage_PG = torch.tensor([[1.0, -0.5, -0.5], [-1.0, 0.2, 0.8]])
    (minibatch,) = pack(groups, advantage_PG, torch.ones(2, 3, dtype=torch.bool), [True, True], minibatches=1,
                        mask_truncated=False)  # fmt: skip
    return minibatch


def step(cfg: Config, policy: Policy, minibatch: MiniBatch) -> tuple[float, Tensor, dict[str, Tensor]]:
    """One step of GRPO: its loss, the log-probabilities before it, the gradients by name."""
    optimizer = Recorded(policy.trainable(), learning_rate=cfg.grpo.learning_rate, warmup_steps=0, betas=(0.9, 0.999),
                         weight_decay=0.0, schedule="constant", total_steps=1, kind="adamw", on_host=False,
                         scales_loss=False)  # fmt: skip
    (loss,), statistics, _ = grpo.update(
        cfg, resolve_training(cfg), policy, None, optimizer, [minibatch], Meter(torch.device("cpu"))
    )
    logp_T = torch.cat([stats.logp_T for stats in statistics])
    return loss, logp_T, dict(zip(policy.trainable(), optimizer.gradients, strict=True))


@pytest.mark.parametrize("quantization", TOLERANCE)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_that_of_the_plain_way(
    name: str,
    quantization: str,
    open_model: Callable[[str], Path],
    make_config: Callable[..., Config],
    make_groups: Callable[..., list[Group]],
) -> None:
    """Layers recomputed in tiles on the host, fused adapter, head in chunks, beside autograd on the modules as made."""
    cfg, folder = make_config(RECIPE | {"model.quantization": quantization}), open_model(name)
    minibatch = minibatch_of(make_groups([(7, [5, 2, 9]), (3, [1, 4, 4])]))
    plain = replace(open_policy(cfg, folder), kernels="reference")
    expected_loss, expected_T, expected = step(cfg, plain, minibatch)

    policy = trained_as(
        make_config(RECIPE | {"model.quantization": quantization, "memory.offload": "on"}), open_policy(cfg, folder)
    )
    before = {name: weight.detach().clone() for name, weight in policy.trainable().items()}
    loss, logp_T, gradients = step(cfg, policy, minibatch)

    assert type(policy.base).__name__ == MODELS[name][0]
    assert loss == pytest.approx(expected_loss, abs=TOLERANCE[quantization])
    assert_close_where(logp_T, expected_T, TOLERANCE[quantization])
    assert gradients.keys() == expected.keys() and all("lora_" in key for key in gradients)
    for key, g in expected.items():
        assert 0.0 < g.norm() < float("inf"), key
        assert_relative(gradients[key], g, TOLERANCE[quantization], case=key)
    assert not any(torch.equal(weight, before[key]) for key, weight in policy.trainable().items())


def test_every_preset_of_a_model_on_the_hub_has_its_architecture_here() -> None:
    sources = [
        parse_yaml(path.read_text(), path.stem).get("model", {}).get("source", "") for path in FOLDER.glob("*.yaml")
    ]
    on_hub = {source for source in sources if "/" in source and ":" not in source}
    assert {find_shape(source, FOLDER / "shapes").name for source in on_hub} == set(MODELS)
