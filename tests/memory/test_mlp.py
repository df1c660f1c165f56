"""A gate whose gradients are written over what it kept: the bits of autograd's, fewer bytes, never a wrong gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import FalconH1Config, Gemma3nTextConfig, LlamaConfig
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1MLP
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP
from transformers.models.llama.modeling_llama import LlamaMLP

from rlvr.memory.layer import install
from rlvr.memory.lora import fuse
from rlvr.memory.mlp import gate_in_place
from rlvr.runtime.ledger import LiveStorages
from support.precision import assert_gradients, assert_same_bits
from support.tiny_models import gradients, make_model, stream

CPU = torch.device("cpu")

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text")


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_autograds_to_the_bit(family: str, adapter: bool) -> None:
    policy = make_model(family, adapter=adapter, dtype=torch.float32)
    expected = gradients(policy)
    assert gate_in_place(policy.model) == 3
    found = gradients(policy)
    assert_same_bits(found, expected)
    assert install(policy.model, tile_rows=6, offload=True) == []
    assert_gradients(gradients(policy), expected, 1e-6)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_everything_together_in_float64(family: str) -> None:
    policy = make_model(family, adapter=True, dtype=torch.float64)
    expected = gradients(policy)
    gate_in_place(policy.model)
    fuse(policy.model)
    install(policy.model, tile_rows=6, offload=True)
    assert_gradients(gradients(policy), expected, 1e-12)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_second_backward_is_an_error(family: str) -> None:
    policy = make_model(family, adapter=True, dtype=torch.float32)
    gate_in_place(policy.model)
    total = policy.hidden_stream(*stream()).sum()
    torch.autograd.backward(total, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(total)


def clamped(limit: float) -> Any:
    class Clamped(LlamaMLP):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Any:
            return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=limit)) * self.up_proj(x))

    return Clamped(LlamaConfig(hidden_size=64, intermediate_size=128))


def scaled() -> Any:
    return FalconH1MLP(FalconH1Config(hidden_size=64, intermediate_size=128, mlp_multipliers=[0.5, 1.0]))


def sparse(share: float) -> Any:
    config = Gemma3nTextConfig(
        hidden_size=64, intermediate_size=[128], num_hidden_layers=1, activation_sparsity_pattern=[share],
        num_kv_shared_layers=0, layer_types=["full_attention"],
    )  # fmt: skip
    return Gemma3nTextMLP(config)


@pytest.mark.parametrize("mlp", [clamped(7.0), clamped(1000.0), scaled(), sparse(0.95)], ids=lambda m: type(m).__name__)
def test_an_mlp_with_the_same_parts_and_another_formula_stays(mlp: Any) -> None:
    assert gate_in_place(mlp) == 0 and "forward" not in vars(mlp)


def test_an_mlp_that_may_be_sparse_and_is_not_is_known() -> None:
    mlp, x = sparse(0.0), torch.randn(3, 64)
    expected = mlp(x)
    for _ in range(2):  # again, too
        assert gate_in_place(mlp) == 1
        assert_same_bits(mlp(x), expected)


def test_a_copy_and_other_mlps_run_their_own() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float64)
    gate_in_place(policy.model)
    mlp = policy.body.layers[0].mlp
    twin, x = copy.deepcopy(mlp), torch.randn(3, 64, dtype=torch.float64)
    before = mlp(x)
    with torch.no_grad():
        mlp.gate_proj.base_layer.weight.mul_(2.0)
    assert_same_bits(twin(x), before)
    assert not torch.equal(mlp(x), before)
    assert gate_in_place(make_model("llama", adapter=True, dtype=torch.float32, hidden_act="relu").model) == 0


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_it_needs_fewer_wide_tensors(family: str) -> None:
    inner, rows = 4096, 64
    policy = make_model(family, adapter=True, dtype=torch.float64, intermediate_size=inner, num_hidden_layers=1)
    fuse(policy.model)
    x = torch.randn(1, rows, 64, dtype=torch.float64, requires_grad=True)
    peaks = []
    for in_place in (False, True):
        if in_place:
            gate_in_place(policy.model)
        policy.body.layers[0].mlp(x).sum().backward()
        with LiveStorages(CPU, reads=False) as measured:
            policy.body.layers[0].mlp(x).sum().backward()
        peaks.append(measured.peak_bytes / (inner * rows * 8))
    assert [round(peak) for peak in peaks] == [6, 4]
