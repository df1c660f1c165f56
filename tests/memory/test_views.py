"""A model on given tensors: the same tensors, and a clear reason where they are not the model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.config import Config
from rlvr.memory.quantized import Nf4, decoder_linears, quantize
from rlvr.memory.views import NotShareable, Views, model_on
from rlvr.model.policy import load_tokenizer
from rlvr.model.source import Source
from support.loading import load
from support.precision import assert_close_where, assert_same_bits
from support.tiny_models import FAMILIES, SHAPE, make_model, stream

CHANGES = {"llama": {"mlp_bias": True, "attention_bias": True}, "gemma3_text": {"tie_word_embeddings": True}}


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def config_of(family: str, **changes: Any) -> Any:
    return AutoConfig.for_model(family, **(SHAPE | FAMILIES[family] | CHANGES.get(family, {}) | changes))


def build(views: Views, config: Any, dtype: torch.dtype = torch.float32) -> Any:
    return model_on(views, config, dtype=dtype, attention="rlvr")


@torch.no_grad()
def hidden(model: Any) -> Tensor:
    token_S, position_S, layout = stream()
    token_S %= model.config.vocab_size
    output = model.get_decoder()(token_S[None], position_ids=position_S[None], use_cache=False, layout=layout)
    states: Tensor = output.last_hidden_state
    return states


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_each_family_is_built_on_tensors(family: str) -> None:
    policy = make_model(family, adapter=False, dtype=torch.float32, **CHANGES.get(family, {}))
    views = weights_of(policy.model)
    model = build(views, config_of(family))
    assert {w.data_ptr() for w in model.parameters()} == {w.data_ptr() for w in views.values()}
    assert not any(weight.requires_grad for weight in model.parameters())
    assert_close_where(hidden(model), hidden(policy.model), 2e-5)


def test_weights_in_4_bits_keep_their_bytes_and_biases() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of("qwen2"), dtype=torch.bfloat16, attn_implementation="rlvr")
    with torch.no_grad():
        model.get_parameter("model.layers.1.self_attn.q_proj.bias").normal_()
    quantize(model, device=torch.device("cpu"))
    views: dict[str, Tensor | Nf4] = {}
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        views[name] = weight.detach() if state is None else Nf4(weight.data, state)
    other = build(views, config_of("qwen2"), torch.bfloat16)
    assert_same_bits(hidden(other), hidden(model))
    assert {w.data_ptr() for w in other.parameters()} == {w.data_ptr() for w in model.parameters()}
    assert not decoder_linears(other) and other.is_loaded_in_4bit


def without_a_norm(views: dict[str, Any]) -> None:
    del views["model.layers.1.input_layernorm.weight"]


def in_another_shape(views: dict[str, Any]) -> None:
    views["model.embed_tokens.weight"] = torch.zeros(64, 64)


def in_another_type(views: dict[str, Any]) -> None:
    views["model.norm.weight"] = views["model.norm.weight"].bfloat16()


def made_for_inference(views: dict[str, Any]) -> None:
    with torch.inference_mode():
        views["model.norm.weight"] = torch.ones(64)


WRONG: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (without_a_norm, "the engine has no model.layers.1.input_layernorm.weight"),
    (in_another_shape, r"embed_tokens.weight is torch.float32 of shape \(50, 64\), but .* of shape \(64, 64\)"),
    (in_another_type, "model.norm.weight is torch.float32 of shape .*, but the engine's torch.bfloat16"),
    (made_for_inference, "model.norm.weight is an inference tensor"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_tensors_that_are_not_the_models_are_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    policy = make_model("llama", adapter=False, dtype=torch.float32, **CHANGES["llama"])
    views: dict[str, Any] = weights_of(policy.model)
    change(views)
    with pytest.raises(NotShareable, match=message):
        build(views, config_of("llama"))


@pytest.mark.parametrize(
    ("width", "outer", "message"),
    [(96, 64, "96 is not a multiple of 64"), (128, 32, r"of shape \(64, 128\) is not in NF4 in blocks of 64")],
)
def test_4_bits_in_another_layout_are_refused(width: int, outer: int, message: str) -> None:
    import bitsandbytes  # noqa: PLC0415

    changes = {"hidden_size": 64, "intermediate_size": width, "num_hidden_layers": 1}
    model = make_model("llama", adapter=False, dtype=torch.float32, **(CHANGES["llama"] | changes)).model
    name = "model.layers.0.mlp.down_proj.weight"
    packed = bitsandbytes.functional.quantize_4bit(torch.randn(outer, width), quant_type="nf4", blocksize=64)
    with pytest.raises(NotShareable, match=message):
        build(weights_of(model) | {name: Nf4(*packed)}, config_of("llama", **changes))


def test_a_policy_says_why_it_has_a_copy_of_its_own(
    make_config: Callable[..., Config], base: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = base("llama")
    source, tokenizer = Source(str(folder), None, None), load_tokenizer(folder)
    cfg = make_config({"model.adapter": "lora", "model.lora.rank": 4})
    policy = load(cfg, source, tokenizer, base={})
    assert "their own copy of the weights: the engine has no model.embed_tokens.weight" in capsys.readouterr().out
    found, views = hidden(policy.base), weights_of(policy.model.unload())
    again = load(cfg, source, tokenizer, base=views)
    assert capsys.readouterr().out == ""
    assert_same_bits(hidden(again.base), found)
    with pytest.raises(ValueError, match="only frozen weights can be shared"):
        load(make_config(), source, tokenizer, base={})
