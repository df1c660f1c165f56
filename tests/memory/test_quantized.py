"""4-bit weights through bitsandbytes, on a CPU for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from rlvr.attention import PackedLayout
from rlvr.linear import through_onednn
from rlvr.memory.layer import install
from rlvr.memory.lora import fuse
from rlvr.memory.quantized import decoder_linears, quantize, quantized_linear, unpacked, weight_bytes, weight_of
from rlvr.model.policy import Policy
from rlvr.runtime.ledger import LiveStorages
from rlvr.types import UserError
from support.precision import assert_gradients, assert_same_bits
from support.tiny_models import gradients, plain_model, stream

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'rlvr[qlora]'")

CPU = torch.device("cpu")
KNOWN = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text")


def with_adapter(model: Any) -> Policy:
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return Policy(through_onednn(model), model.get_base_model().get_decoder(), (0,), "auto", None)


@pytest.mark.parametrize("family", KNOWN)
def test_gradients_are_those_of_plain_autograd(family: str) -> None:
    model = plain_model(family)
    quantize(model, device=CPU)
    policy = with_adapter(model)
    expected = gradients(policy)
    kept = []
    for offload in (False, True):
        assert install(policy.model, tile_rows=6, offload=offload) == []
        kept.append(gradients(policy))
        assert_gradients(kept[-1], expected, 1e-6)
    assert_same_bits(kept[0], kept[1])


@pytest.mark.parametrize("family", KNOWN)
def test_a_fused_adapter_trains_on_the_same_weights(family: str) -> None:
    """In float32 its error to the truth, the same weights in float64, is no more than twice PEFT's own."""
    model = plain_model(family)
    quantize(model, device=CPU)
    policy = with_adapter(model)
    peft = gradients(policy)
    assert fuse(policy.model) == []
    fused = gradients(policy)
    for layer in policy.model.modules():
        if type(layer).__name__ == "Linear4bit" and hasattr(layer, "quant_state"):
            layer.forward = dense_forward(layer)
    assert_gradients(fused, peft, 4e-6)
    for name, g in gradients(policy).items():
        assert (fused[name] - g).norm() <= 4e-6 * g.norm()


def test_tiles_unpack_a_weight_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain_model("llama")
    quantize(model, device=CPU)
    policy = with_adapter(model)
    fuse(policy.model)
    install(policy.model, tile_rows=64, offload=False)
    import bitsandbytes  # noqa: PLC0415

    own, unpacked = bitsandbytes.functional.dequantize_4bit, []

    def counting(packed: Tensor, state: Any) -> Tensor:
        unpacked.append(tuple(state.shape))
        weight: Tensor = own(packed, state)
        return weight

    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", counting)
    layout = PackedLayout([], [200], [0], CPU)
    found = gradients(policy, (torch.arange(200) % 50, torch.arange(200), layout))
    assert unpacked.count((128, 64)) == 2 * 2 * 3 and unpacked.count((64, 128)) == 2 * 3  # forward and backward
    install(policy.model, tile_rows=200, offload=False)
    assert_gradients(gradients(policy, (torch.arange(200) % 50, torch.arange(200), layout)), found, 1e-5)


def test_weights_that_no_memory_was_left_for_stay_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = nn.Sequential(*(quantized_linear("layer", nn.Linear(64, 64), CPU) for _ in range(2)))
    own, calls = weight_of, []

    def failing(layer: Any, dtype: torch.dtype) -> Tensor:
        calls.append(layer)
        if len(calls) == 2:
            raise MemoryError
        return own(layer, dtype)

    monkeypatch.setattr("rlvr.memory.quantized.weight_of", failing)
    with pytest.raises(MemoryError), unpacked(layers, torch.float32):
        pass
    assert not any("unpacked" in vars(layer) for layer in layers)


def dense_forward(layer: Any) -> Any:
    weight = weight_of(layer, torch.float32)
    return lambda x: nn.functional.linear(x, weight, layer.bias)


@settings(max_examples=30)
@given(
    rows=st.integers(1, 80),
    blocks=st.integers(1, 6),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_any_whole_number_of_blocks_survives(rows: int, blocks: int, seed: int, dtype: str) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(64 * blocks, rows, dtype=getattr(torch, dtype))
    small = quantized_linear("layer", layer, CPU)
    assert small.weight.dtype == torch.uint8
    relative = (weight_of(small, torch.float32) - layer.weight).norm() / layer.weight.norm()
    assert 0.02 < relative < 0.13
    assert weight_bytes(small) == rows * blocks * 32 + rows * blocks + 4 * -(-rows * blocks // 256)


def test_the_check_needs_little_beside_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there at once: the matrix in NF4 and as it comes back, and a few rows of it in float32."""
    monkeypatch.setattr("rlvr.memory.quantized.CHECKED_AT_ONCE", 2**12)
    layer = nn.Linear(512, 2048, dtype=torch.bfloat16)
    with LiveStorages(CPU, reads=False) as measured:
        small = quantized_linear("layer", layer, CPU)
    kept = weight_bytes(small) + layer.weight.nbytes
    assert measured.peak_bytes == pytest.approx(kept, rel=0.2)


def test_a_layer_of_another_width_stays_and_is_named() -> None:
    model = plain_model("llama", hidden_size=96, intermediate_size=128)
    found = quantize(model, device=CPU)
    assert set(found.bytes_4bit) == {f"model.layers.{i}.mlp.down_proj" for i in range(3)}
    assert "96 is not a multiple of 64" in found.left["model.layers.0.self_attn.q_proj"]
    assert type(model.get_submodule("model.layers.0.self_attn.q_proj")) is nn.Linear
    gradients(with_adapter(model))


def test_a_weight_that_is_corrupted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes  # noqa: PLC0415

    honest = bitsandbytes.functional.dequantize_4bit

    def shifted(*args: Any, **options: Any) -> Tensor:
        weight: Tensor = honest(*args, **options).clone()
        weight[-1, -64:] = weight[-1, -64:].roll(1)
        return weight

    layer = nn.Linear(128, 32)
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", shifted)
    with pytest.raises(UserError, match="up_proj of shape \\(32, 128\\) does not come back"):
        quantized_linear("up_proj", layer, CPU)
    not_numbers = nn.Linear(64, 4)
    nn.init.constant_(not_numbers.weight, float("nan"))
    with pytest.raises(UserError, match="does not come back"):
        quantized_linear("nan", not_numbers, CPU)


def test_embeddings_head_and_norms_stay() -> None:
    model = plain_model("qwen3", torch.bfloat16)
    names = set(decoder_linears(model))
    found = quantize(model, device=CPU)
    assert set(found.bytes_4bit) == names and not found.left
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16
    assert len(names) == 3 * 7


def test_the_adapter_has_pefts_layout(tmp_path: Path) -> None:
    model = plain_model("llama", torch.bfloat16)
    quantize(model, device=CPU)
    policy = with_adapter(model)
    install(policy.model, tile_rows=6, offload=True)
    fuse(policy.model)
    policy.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    again = plain_model("llama", torch.bfloat16)
    quantize(again, device=CPU)
    again = PeftModel.from_pretrained(again, tmp_path)
    other = Policy(again, again.get_base_model().get_decoder(), (0,), "auto", None)
    install(other.model, tile_rows=6, offload=True)
    fuse(other.model)
    with torch.no_grad():
        assert_same_bits(other.hidden_stream(*stream()), policy.hidden_stream(*stream()))


def test_evaluation_leaves_the_weights_readable() -> None:
    model = plain_model("llama", torch.bfloat16)
    quantize(model, device=CPU)
    policy = with_adapter(model)
    before = gradients(policy)
    policy.model.eval()
    with torch.no_grad():
        policy.hidden_stream(*stream())
    policy.model.train()
    after = gradients(policy)
    assert_same_bits(after, before)
