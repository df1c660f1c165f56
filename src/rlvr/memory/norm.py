"""RMSNorm as one function: backward needs the input and one number a row, and computes the rest again.

y = w · x / √(mean(x²) + ε) (Zhang & Sennrich 2019, arXiv 1910.07467). transformers writes it as a chain of operations:
autograd keeps the input again in float32, and backward holds six tensors of that size, the peak of a long update. Here
it is one pass over the rows each way, rounded where transformers rounds, on a GPU in one kernel.
"""
# N rows · D width

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from rlvr.logprob import Impl, resolve

NUMBERS = 2**16  # in float32 at a time, where no kernel runs


@dataclass(frozen=True)
class Form:
    """What x / rms is multiplied with, `offset` + w, and whether it is rounded to the type of x before."""

    offset: float
    rounds_first: bool


FORMS = Form(0.0, rounds_first=True), Form(1.0, rounds_first=False), Form(0.0, rounds_first=False)  # Llama, Gemma, OLMo


def fuse_norms(model: nn.Module, *, impl: Impl) -> int:
    """Let the RMSNorms of `model` run as one function; returns how many it knows.

    Modules, names and parameters stay as they are; a norm of another form runs as before, and so does float64.
    """
    known = 0
    for module in model.modules():
        if (form := form_of(module)) is not None:
            module.forward = MethodType(partial(_forward, form=form, impl=impl), module)  # a deep copy gets its own
            known += 1
    return known


@torch.no_grad()
def form_of(module: nn.Module) -> Form | None:
    """The form whose values a norm has in bfloat16, where every rounding shows, on rows of any size, where its ε does;
    None for every other module."""
    weights = dict(module.named_parameters())
    if weights.keys() != {"weight"} or weights["weight"].dim() != 1 or not isinstance(_epsilon(module), float | int):
        return None
    generator = torch.Generator().manual_seed(0)
    x_ND, weight_D = (torch.randn(size, generator=generator) for size in ((64, 96), (96,)))
    x_ND, weight_D = (x_ND * torch.logspace(-5, 2, 64)[:, None]).bfloat16(), weight_D.bfloat16()
    try:
        y_ND = functional_call(module, {"weight": weight_D}, (x_ND,))
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return None  # it wants to be called in another way
    return next((f for f in FORMS if torch.equal(y_ND, rms_norm(x_ND, weight_D, _epsilon(module), f))), None)


def rms_norm(x: Tensor, weight_D: Tensor, epsilon: float, form: Form, impl: Impl = "auto") -> Tensor:
    """The norm of x [..., D] over its last dimension, in the type of x: 16 bits or float32."""
    if not torch.is_grad_enabled() and x.numel() <= NUMBERS and resolve(impl, x) != "triton":
        return _plain(x, weight_D, epsilon, form)
    normed: Tensor = _RMSNorm.apply(x, weight_D, epsilon, form, impl)  # type: ignore[no-untyped-call]
    return normed


def _plain(x: Tensor, weight_D: Tensor, epsilon: float, form: Form) -> Tensor:
    """The same, of few rows and without gradients: what a sampler asks for at every token."""
    wide = x.float()
    normed = wide * wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    if form.rounds_first:
        return normed.to(x.dtype) * weight_D
    return normed.mul_(weight_D.float() + form.offset).to(x.dtype)


def _forward(self: Any, x: Tensor, *more: Any, form: Form, impl: Impl, **options: Any) -> Tensor:
    if x.dtype == torch.float64 or x.dtype != self.weight.dtype or more or options:
        plain: Tensor = type(self).forward(self, x, *more, **options)  # with a gate, where a norm takes one
        return plain
    return rms_norm(x, self.weight, _epsilon(self), form, impl)


def _epsilon(module: Any) -> Any:
    """Its ε, under either of the names that transformers gives it."""
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float, form: Form, impl: Impl) -> Tensor:
        ctx.form, ctx.uses_kernel = form, resolve(impl, x) == "triton"
        y = _like(x)
        x_ND, y_ND = _rows(x, y), _rows(y, y)
        scale_N = x_ND.new_empty(len(x_ND), dtype=torch.float32)
        if ctx.uses_kernel:
            from rlvr.memory import norm_kernel  # noqa: PLC0415

            norm_kernel.forward(x_ND, weight_D, y_ND, scale_N, epsilon, form.offset, form.rounds_first)
        else:
            for rows in _blocks(x_ND):
                _normalize(x_ND[rows], weight_D, y_ND[rows], scale_N[rows], epsilon, form)
        ctx.save_for_backward(x, weight_D, scale_N)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_D, scale_N = ctx.saved_tensors
        grad_x = _like(x)  # no view: the next function may own it
        x_ND, grad_ND, grad_x_ND = (_rows(rows, grad_x) for rows in (x, grad, grad_x))
        if ctx.uses_kernel:
            from rlvr.memory import norm_kernel  # noqa: PLC0415

            grad_weight_D = norm_kernel.backward(
                grad_ND, x_ND, weight_D, scale_N, grad_x_ND, ctx.form.offset, needs_weight=ctx.needs_input_grad[1]
            )
        else:
            grad_weight_D = torch.zeros_like(weight_D, dtype=torch.float32) if ctx.needs_input_grad[1] else None
            wide_weight_D = weight_D.float() + ctx.form.offset
            for rows in _blocks(x_ND):
                _go_back(grad_ND[rows], x_ND[rows], wide_weight_D, scale_N[rows], grad_x_ND[rows], grad_weight_D)
        return grad_x, None if grad_weight_D is None else grad_weight_D.to(weight_D.dtype), *[None] * 3


def _normalize(x_ND: Tensor, weight_D: Tensor, y_ND: Tensor, scale_N: Tensor, epsilon: float, form: Form) -> None:
    """Writes y and 1 / rms."""
    wide_ND = x_ND.float()
    scale_N.copy_(wide_ND.square().mean(-1).add_(epsilon).rsqrt_())
    normed_ND = wide_ND * scale_N[:, None]
    if form.rounds_first:
        torch.mul(normed_ND.to(x_ND.dtype), weight_D, out=y_ND)
    else:
        y_ND.copy_(normed_ND.mul_(weight_D.float() + form.offset))


def _go_back(
    grad_ND: Tensor, x_ND: Tensor, weight_D: Tensor, scale_N: Tensor, grad_x_ND: Tensor, grad_weight_D: Tensor | None
) -> None:
    """Writes the gradient of x, and adds that of w where there is one; `weight_D` is offset + w in float32."""
    normed_ND = x_ND * scale_N[:, None]
    product_ND = grad_ND * normed_ND
    if grad_weight_D is not None:
        grad_weight_D += product_ND.sum(0)
    shared_N = (product_ND @ weight_D).div_(len(weight_D))
    of_normed_ND = torch.mul(grad_ND, weight_D, out=product_ND)
    grad_x_ND.copy_(of_normed_ND.addcmul_(normed_ND, shared_N[:, None], value=-1.0).mul_(scale_N[:, None]))


def _like(x: Tensor) -> Tensor:
    """An empty tensor whose rows lie whole, in the order of those of x where these do."""
    empty = torch.empty_like(x)
    return (
        empty if x.dim() == 1 or empty.stride(-1) == 1 else torch.empty_like(x, memory_format=torch.contiguous_format)
    )


def _rows(x: Tensor, like: Tensor) -> Tensor:
    """The rows of x in the order in which those of `like` lie in memory: no copy where heads come before tokens."""
    *strides, _ = like.stride()
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    return x.permute(*order, len(strides)).reshape(-1, x.shape[-1])


def _blocks(x_ND: Tensor) -> Iterator[slice]:
    rows = max(1, NUMBERS // x_ND.shape[1])
    return (slice(first, first + rows) for first in range(0, len(x_ND), rows))
