"""A fused RMSNorm has the bits of transformers' own and its gradients, and keeps its input and a number a row."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.bamba.modeling_bamba import BambaRMSNormGated
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNormGated

from rlvr.memory.norm import FORMS, form_of, fuse_norms
from support.precision import assert_gradients, assert_same_bits
from support.tiny_models import exact_norm, gradients, make_model

NORMS = {LlamaRMSNorm: FORMS[0], Gemma3RMSNorm: FORMS[1], Olmo2RMSNorm: FORMS[2]}
COUNTS = {"llama": 7, "qwen2": 7, "qwen3": 13, "phi3": 7, "gemma3_text": 19, "olmo2": 13, "granite": 7}  # of 3 layers


def make_norm(kind: Any, width: int, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    norm = kind(width)
    nn.init.normal_(norm.weight)
    return norm.to(dtype)


def results(norm: Any, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    y = norm(leaf)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [leaf, norm.weight], direction)]


@pytest.mark.parametrize("shape", [(1, 64), (1, 30, 64), (2, 5, 4, 64), (3, 4000, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", NORMS)
def test_it_is_transformers_own(kind: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    norm, exact = make_norm(kind, 64, dtype), make_norm(kind, 64, dtype).double()
    exact.forward = MethodType(exact_norm, exact)
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 3).to(dtype)
    assert form_of(norm) == NORMS[kind]
    own = results(norm, x)
    assert fuse_norms(norm, impl="torch") == 1
    found, true = results(norm, x), results(exact, x.double())
    assert_same_bits(found[0], own[0])
    for ours, theirs, truth in zip(found, own, true, strict=True):
        ours_off, theirs_off = ((t.double() - truth).norm() / truth.norm() for t in (ours, theirs))
        assert ours.dtype == dtype and ours_off <= 1.1 * theirs_off + 1e-7, f"{ours_off:.1e}, its own {theirs_off:.1e}"


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", COUNTS)
def test_a_model_with_fused_norms(family: str, adapter: bool) -> None:
    policy = make_model(family, adapter=adapter, dtype=torch.float32)
    expected = gradients(policy)
    assert fuse_norms(policy.model, impl="auto") == COUNTS[family]
    found = gradients(policy)
    assert_same_bits({"output": found["output"]}, {"output": expected["output"]})
    assert_gradients(found, expected, 2e-6)


@pytest.mark.parametrize("dims", [(0, 2, 1, 3), (2, 0, 1, 3), (1, 0, 3, 2)], ids=str)
def test_rows_in_any_order_stay_where_they_are(dims: tuple[int, ...]) -> None:
    norm = make_norm(Gemma3RMSNorm, 64, torch.float32)
    lying = torch.randn([(2, 30, 4, 64)[dims.index(i)] for i in range(4)]).permute(dims)
    own = results(norm, lying)
    fuse_norms(norm, impl="auto")
    found = results(norm, lying)
    assert found[0].stride() == own[0].stride() or lying.stride(-1) > 1
    assert_gradients(dict(zip("yxw", found, strict=True)), dict(zip("yxw", own, strict=True)), 1e-6)


def test_a_norm_that_may_take_a_gate_still_takes_it() -> None:
    norm = make_norm(BambaRMSNormGated, 64, torch.float32)
    x, gate = torch.randn(2, 5, 64)
    own, gated = norm(x), norm(x, gate)
    assert fuse_norms(norm, impl="auto") == 1
    assert_same_bits(norm(x), own)
    assert_same_bits(norm(x, gate), gated)
    assert_same_bits(norm(x, gate=gate), gated)


def test_what_it_keeps() -> None:
    norm = make_norm(LlamaRMSNorm, 64, torch.bfloat16).requires_grad_(False)
    fuse_norms(norm, impl="auto")
    x = torch.randn(2, 30, 64, dtype=torch.bfloat16, requires_grad=True)
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        norm(x)
    others = [t for t in kept if t.data_ptr() not in (x.data_ptr(), norm.weight.data_ptr())]
    assert [t.nbytes for t in others] == [4 * 2 * 30]


class Outside(LlamaRMSNorm):  # type: ignore[misc]
    """ε beside the root, not under it: the same where rows are large."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed: Tensor = self.weight * (
            wide / (wide.square().mean(-1, keepdim=True).sqrt() + self.variance_epsilon)
        ).to(x)
        return normed


def with_tensor() -> Any:
    norm = LlamaRMSNorm(64)
    norm.variance_epsilon = torch.tensor(1e-6)
    return norm


OTHERS = (nn.LayerNorm(64), nn.Linear(64, 64), nn.RMSNorm(64), Qwen3_5RMSNormGated(64), Outside(64), with_tensor())


@pytest.mark.parametrize("module", OTHERS, ids=lambda module: type(module).__name__)
def test_other_modules_are_left_alone(module: Any) -> None:
    assert form_of(module) is None
    assert fuse_norms(module, impl="auto") == 0 and "forward" not in vars(module)
