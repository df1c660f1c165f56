"""A gate whose gradients are written over what it kept: the bits of autograd's, fewer bytes, never a wrong gradient."""

from __future__ import annotations

import copy

import pytest
import torch

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


def test_a_copy_and_other_mlps_run_their_own() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float64)
    gate_in_place(policy.model)
    mlp = policy.body.layers[0].mlp
    twin, x = copy.deepcopy(mlp), torch.randn(3, 64, dtype=torch.float64)
    before = mlp(x)
    with torch.no_grad():
        mlp.gate_proj.base_layer.weight.mul_(2.0)
    assert torch.equal(twin(x), before) and not torch.equal(mlp(x), before)
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
