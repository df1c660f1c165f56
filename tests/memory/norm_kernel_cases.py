"""RMSNorm in Triton against float64. tests/logprob/test_kernels.py runs this file in a process of its own."""
# N rows · D width

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlvr.memory.norm import FORMS, Form, rms_norm
from support.precision import assert_same_bits

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = 1e-5
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
if DEVICE == "cpu":
    ROUNDING[torch.bfloat16] = 2e-2  # Triton's interpreter cuts off what a GPU rounds
NAMES = ("y", "gradient of x", "gradient of w")


def truth(x_ND: Tensor, weight_D: Tensor, grad_ND: Tensor, form: Form) -> tuple[Tensor, ...]:
    x, weight, grad = x_ND.double().requires_grad_(), weight_D.double().requires_grad_(), grad_ND.double()
    y = x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt() * (form.offset + weight)
    return y.detach(), *torch.autograd.grad(y, [x, weight], grad)


def inputs(rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + width)
    x, weight, grad = (torch.randn(size, generator=generator) for size in ((rows, width), (width,), (rows, width)))
    sizes = torch.logspace(-3, 3, rows)[:, None] if rows else 1.0  # rows of very different norms
    return (x * sizes).to(DEVICE, dtype), weight.to(DEVICE, dtype), grad.to(DEVICE, dtype)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("rows, width", [(1, 16), (7, 96), (70, 64), (3, 5000)])
def test_values_and_gradients(rows: int, width: int, dtype: torch.dtype, form: Form) -> None:
    x, weight, grad = inputs(rows, width, dtype)
    x.requires_grad_(), weight.requires_grad_()
    y = rms_norm(x, weight, EPSILON, form, "triton")
    found = (y.detach(), *torch.autograd.grad(y, [x, weight], grad))
    for name, ours, theirs in zip(NAMES, found, truth(x, weight, grad, form), strict=True):
        distance = ((ours.double() - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()  # of the worst row
        assert distance <= ROUNDING[dtype], f"{name}: {distance:.1e}"


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])], ids=str)
def test_it_rounds_where_torch_does(dtype: torch.dtype, form: Form) -> None:
    x, weight, _ = inputs(40, 100, dtype)
    kernel, plain = (rms_norm(x, weight, EPSILON, form, impl) for impl in ("triton", "torch"))
    assert (kernel != plain).double().mean().item() < 0.002  # 1 / rms may differ in its last bit


def test_a_frozen_weight_changes_nothing_for_x() -> None:
    x, weight, grad = inputs(70, 64, torch.float32)
    x.requires_grad_()
    (frozen,) = torch.autograd.grad(rms_norm(x, weight, EPSILON, FORMS[0], "triton"), [x], grad)
    weight.requires_grad_()
    trained, _ = torch.autograd.grad(rms_norm(x, weight, EPSILON, FORMS[0], "triton"), [x, weight], grad)
    assert_same_bits(frozen, trained)


def test_more_rows_than_programs_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.memory.norm_kernel.PROGRAMS", 2)
    x, weight, grad = inputs(300, 64, torch.float32)
    weight.requires_grad_()
    (found,) = torch.autograd.grad(rms_norm(x, weight, EPSILON, FORMS[1], "triton"), [weight], grad)
    expected = truth(x, weight, grad, FORMS[1])[2]
    assert ((found.double() - expected).norm() / expected.norm()).item() < 2e-6


def test_no_rows() -> None:
    x, weight, grad = inputs(0, 64, torch.float32)
    x.requires_grad_(), weight.requires_grad_()
    y = rms_norm(x, weight, EPSILON, FORMS[0], "triton")
    found = torch.autograd.grad(y, [x, weight], grad)
    assert found[0].shape == (0, 64)
    assert_same_bits(found[1], torch.zeros_like(weight))
