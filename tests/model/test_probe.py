"""What would train another model without a word is refused at load, and what is right is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.attention import PackedLayout
from rlvr.attention import layout as attention
from rlvr.attention.recurrent import carry
from rlvr.config import Config
from rlvr.model.policy import load_tokenizer
from rlvr.model.probe import check_packed
from rlvr.sampler.native import GroupCache
from rlvr.sampler.probe import check_native
from rlvr.types import UserError
from support.loading import load

SHAPE = {"vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 64,
         "pad_token_id": 0}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4096},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_5_text": {
        "head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
}  # fmt: skip


def build(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    config = AutoConfig.for_model(kind, **(SHAPE | KINDS.get(kind, {}) | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="rlvr", dtype=dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    carry(model)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_is_accepted_in_every_type(kind: str, dtype: torch.dtype) -> None:
    model = build(kind, dtype)
    windows = model.config.sliding_window if kind == "mistral" else None
    check_packed(model, name=kind)
    assert model.config._attn_implementation == attention.NAME
    assert kind != "mistral" or model.config.sliding_window == windows == 4096


def without_sinks(layout: Any, *arguments: Any) -> Tensor:
    return ATTEND(layout, *arguments[:-1])


def without_windows(layout: Any, *arguments: Any) -> Tensor:
    *rest, _, sink_H = arguments
    return ATTEND(layout, *rest, None, sink_H)


def as_one_row(layout: Any, layer: int, x_SD: Tensor, run: Callable[..., Tensor]) -> Tensor:
    return run(x_SD[None], None)[0]


ATTEND: Callable[..., Tensor] = PackedLayout.attend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("kind", "method", "mutant"),
    [
        ("gpt_oss", "attend", without_sinks),
        ("mistral", "attend", without_windows),
        ("qwen3_5_text", "recur", as_one_row),
    ],
)
def test_what_attention_would_drop_is_noticed(
    kind: str, method: str, mutant: Callable[..., Tensor], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sinks, a window much longer than the rows of the probe, and where a row of a recurrent layer begins."""
    monkeypatch.setattr(PackedLayout, method, mutant)
    with pytest.raises(UserError, match=rf"{kind}: \w+ \(model_type {kind}\) cannot be trained here: .* differ"):
        check_packed(build(kind, dtype), name=kind)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("bloom", {}, "does not call transformers' attention interface, so rows would see each other"),
        ("mamba", {}, "has layers that carry a state, other than gated delta nets"),
        ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}, "layers of the kinds conv"),
        ("llama4_text", {"num_local_experts": 2}, "layers of the kinds chunked_attention"),
        ("stablelm", {}, "StableLmAttention does not hand on what its model was called with"),
        ("gptj", {"rotary_dim": 8}, "does not call transformers' attention interface"),
        ("minicpm3", {}, "Q/K/V should have the same head size"),
    ],
)
def test_other_classes_are_refused_at_load_with_the_reason(
    kind: str,
    changes: dict[str, Any],
    reason: str,
    make_config: Callable[..., Config],
    base: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SHAPE | changes))).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        load(make_config(), tmp_path, load_tokenizer(base("llama")))
    assert reason in str(caught.value) and "docs/models.md" in str(caught.value)


def test_a_model_whose_files_lack_weights_is_refused(
    make_config: Callable[..., Config], base: Callable[[str], Path], tmp_path: Path
) -> None:
    """transformers would draw them at random."""
    model = AutoModelForCausalLM.from_pretrained(base("llama"))
    state = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp.up" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match=r"lack 1 weights of LlamaForCausalLM, model\.layers\.1\.mlp\.up_proj"):
        load(make_config(), tmp_path, load_tokenizer(base("llama")))


def test_experts_in_mxfp4_are_unpacked_into_the_type_of_the_run(
    make_config: Callable[..., Config], base: Callable[[str], Path], tmp_path: Path
) -> None:
    """Two 4-bit values to a byte, in blocks of 32 with a power of two: code 2 is 1.0, and 127 is the power 0."""
    build("gpt_oss", num_hidden_layers=1).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("gate_up_proj", "down_proj"):
        experts, inputs, outputs = weights.pop(key := f"model.layers.0.mlp.experts.{name}").shape
        blocks = torch.full((experts, outputs, inputs // 32, 16), 0x22, dtype=torch.uint8)
        weights |= {f"{key}_blocks": blocks, f"{key}_scales": torch.full(blocks.shape[:3], 127, dtype=torch.uint8)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    packed = {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn", "mlp.router", "embed_tokens", "lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": packed}))
    policy = load(make_config(), tmp_path, load_tokenizer(base("llama")))
    for weight in (policy.model.model.layers[0].mlp.experts.gate_up_proj, policy.head):
        assert weight.dtype == torch.float32 and weight.requires_grad
    assert (policy.model.model.layers[0].mlp.experts.gate_up_proj == 1.0).all()


@pytest.mark.parametrize("kind", ["gpt_oss", "qwen3_5_text"])
def test_the_native_sampler_is_probed_too(
    kind: str, make_config: Callable[..., Config], base: Callable[[str], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    build(kind, vocab_size=len(load_tokenizer(base("llama")))).save_pretrained(tmp_path)
    policy = load(make_config(), tmp_path, load_tokenizer(base("llama")))
    check_native(policy, name=kind)
    monkeypatch.setattr(GroupCache, "keep", lambda cache, rows: None)
    monkeypatch.setattr(GroupCache, "advance", lambda cache: None)
    with pytest.raises(UserError, match="cannot be trained here: "):
        check_native(policy, name=kind)


def test_a_class_that_is_right_in_training_and_wrong_in_sampling(
    make_config: Callable[..., Config], base: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its layers attend twice, under one number: the cache would hold the second only."""
    build("diffllama").save_pretrained(tmp_path)
    policy = load(make_config(), tmp_path, load_tokenizer(base("llama")))
    with pytest.raises(UserError, match=r"DiffLlamaForCausalLM .* the native sampler keeps keys and values"):
        check_native(policy, name="diffllama")


def test_an_adapter_is_probed_with_its_effect(make_config: Callable[..., Config], base: Callable[[str], Path]) -> None:
    policy = load(make_config({"model.adapter": "lora"}), base("llama"))
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.1 * torch.randn_like(weight))
    check_native(policy, name="llama")
