"""A fused LoRA layer is PEFT's own, forward and backward, and keeps its input and x·A only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rlvr.memory.layer import install
from rlvr.memory.lora import fuse
from rlvr.model.policy import for_training
from support.precision import assert_gradients, assert_same_bits
from support.tiny_models import gradients, make_model, stream

LIMIT = {torch.float32: 1e-6, torch.float64: 1e-12}


FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_fused_layers_has_pefts_gradients(family: str) -> None:
    policy = make_model(family, adapter=True, dtype=torch.float64)
    expected = gradients(policy)
    assert fuse(policy.model) == []
    assert_gradients(gradients(policy), expected, 1e-12)
    assert install(policy.model, tile_rows=6, offload=True) == []
    assert_gradients(gradients(policy), expected, 1e-12)


@pytest.mark.parametrize("dtype", LIMIT, ids=str)
@pytest.mark.parametrize("rows", [1, 22])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_is_pefts_own(family: str, rows: int, dtype: torch.dtype) -> None:
    policy = make_model(family, adapter=True, dtype=dtype)
    layers = [module for module in policy.model.modules() if isinstance(module, LoraLayer)]
    expected = [layer_gradients(layer, rows) for layer in layers]
    assert fuse(policy.model) == [] and len(layers) >= 3 * 4
    for layer, before in zip(layers, expected, strict=True):
        assert_gradients(layer_gradients(layer, rows), before, LIMIT[dtype])


def layer_gradients(layer: Any, rows: int) -> dict[str, Tensor]:
    generator, base = torch.Generator().manual_seed(4), layer.get_base_layer()
    dtype = base.weight.dtype
    x = torch.randn(1, rows, base.in_features, generator=generator).to(dtype).requires_grad_()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=generator).to(dtype))
    trained = {name: weight for name, weight in layer.named_parameters() if weight.requires_grad}
    found = {name: weight.grad.clone() for name, weight in trained.items() if weight.grad is not None}
    layer.zero_grad()
    return found | {"x": x.grad, "y": y.detach()} if x.grad is not None else {}


def lora_layer(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0"], **settings)
    model = get_peft_model(nn.Sequential(nn.Linear(24, 40)), config)
    nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
    return model


def test_an_adapter_in_float32_on_bfloat16_is_as_near_the_truth_as_pefts_own() -> None:
    x, direction = torch.randn(50, 24), torch.randn(50, 40)

    def run(model: Any, dtype: torch.dtype) -> list[Tensor]:
        leaf = x.to(torch.bfloat16).to(dtype).requires_grad_()
        y = model(leaf)
        y.backward(direction.to(torch.bfloat16).to(dtype))
        layer = model.base_model.model[0]
        return [t.double() for t in (y, leaf.grad, *(w.grad for w in layer.parameters() if w.requires_grad))]

    def errors(model: Any) -> list[float]:
        return [((a - b).norm() / b.norm()).item() for a, b in zip(run(model, torch.bfloat16), truth, strict=True)]

    def mixed() -> Any:
        model = lora_layer()
        base = model.base_model.model[0].base_layer
        base.to(torch.bfloat16)
        return model

    exact = mixed().double()
    truth = run(exact, torch.float64)
    fused = mixed()
    assert fuse(fused) == []
    peft = errors(mixed())
    assert all(ours <= 2 * theirs + 2 * 2**-8 for ours, theirs in zip(errors(fused), peft, strict=True))
    assert fused.base_model.model[0].lora_A["default"].weight.grad.dtype == torch.float32


def test_what_it_keeps() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float64)
    attention = policy.body.layers[0].self_attn
    x = torch.randn(30, 64, dtype=torch.float64, requires_grad=True)
    fuse(policy.model)
    frozen = {weight.data_ptr() for weight in policy.model.parameters()}
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        outs = [projection(x) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
    activations = {t.data_ptr(): t.nbytes for t in kept if t.data_ptr() not in frozen}
    assert sum(activations.values()) == x.nbytes + 3 * 30 * 4 * 8  # x once, and x·A of rank 4 for each of the three
    assert all(out.requires_grad for out in outs)


@pytest.mark.parametrize("shape", [(0, 24), (1, 0, 24)], ids=str)
def test_no_rows(shape: tuple[int, ...]) -> None:
    model, x = lora_layer(), torch.zeros(shape, requires_grad=True)
    assert fuse(model) == []
    y = model(x)
    torch.autograd.backward(y.sum())
    assert y.shape == (*shape[:-1], 40) and x.grad is not None and x.grad.shape == shape


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}], ids=str)
def test_other_lora_layers_keep_their_own_way(settings: dict[str, Any]) -> None:
    assert fuse(lora_layer(**settings)) == ["base_model.model.0"]


def test_an_adapter_that_is_off_stays_off() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float64)
    with policy.model.disable_adapter():
        expected = policy.hidden_stream(*stream())
    fuse(policy.model)
    with policy.model.disable_adapter():
        assert_same_bits(policy.hidden_stream(*stream()), expected)
    assert not torch.allclose(policy.hidden_stream(*stream()), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_pass_of_training_takes_pefts_or_transformers_way(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the pass that is differentiated, nor the first of a recomputed layer, nor one without gradients."""
    policy = make_model(family, adapter=True, dtype=torch.float32)
    taken: list[str] = []
    mlps = [layer.mlp for layer in policy.body.layers]
    norms = [module for module in policy.model.modules() if type(module).__name__.endswith("RMSNorm")]
    kinds = {type(m) for m in (*mlps, *norms, *(m for m in policy.model.modules() if isinstance(m, LoraLayer)))}
    for kind in kinds:
        monkeypatch.setattr(kind, "forward", counted(kind.forward, kind.__name__, taken))
    policy.hidden_stream(*stream())
    assert set(taken) == {kind.__name__ for kind in kinds}
    policy = for_training(
        policy, tile_rows=6, offload=True, keep_attention=False, kernels="auto", logit_chunk_rows=None
    )
    taken.clear()
    with_graph = gradients(policy)["output"]
    with torch.no_grad():
        without = policy.hidden_stream(*stream())
    assert taken == []
    assert_same_bits(with_graph, without)


def counted(forward: Any, name: str, taken: list[str]) -> Any:
    def counting(self: Any, *args: Any, **options: Any) -> Any:
        taken.append(name)
        return forward(self, *args, **options)

    return counting
