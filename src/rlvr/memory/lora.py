"""A LoRA layer as one function: backward needs the input and its product with A, nothing else.

y = x·Wᵀ + b + scale·(x·Aᵀ)·Bᵀ with W and b frozen (Hu et al. 2021, arXiv 2106.09685). The adapter's part is added into
the product in place, a 4-bit W exists in full only while it is used, and layers that share an input, such as queries,
keys and values, keep it once.
"""
# T tokens · D in · O out · R rank

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.linear import Linear, linear, product
from rlvr.memory.quantized import is_quantized, weight_of

FEW_ROWS = 64  # below: a sampler's rows, for which the frozen layer has kernels of its kind


def fuse(model: nn.Module) -> list[str]:
    """Let PEFT's LoRA layers of `model` run as one function, with gradients and without.

    Products are in the type of the input, whatever the type of the adapter. Modules, names and parameters stay as they
    are. Returns the names of LoRA layers that keep PEFT's own way: those with dropout, a variant such as DoRA, their
    own bias, several adapters, or a trained base.
    """
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415

    left = []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if _can_fuse(module):
            module.forward = MethodType(_forward, module)  # bound: a deep copy of the module gets its own
        else:
            left.append(name)
    return left


def _can_fuse(module: Any) -> bool:
    base = module.get_base_layer()
    if type(base) not in (nn.Linear, Linear) and not is_quantized(base):
        return False
    if len(module.lora_A) != 1 or list(module.lora_A) != list(module.active_adapters) or module.lora_variant:
        return False
    (name,) = module.lora_A
    is_plain = isinstance(module.lora_dropout[name], nn.Identity) and module.lora_B[name].bias is None
    return is_plain and not any(weight.requires_grad for weight in base.parameters())


def _forward(self: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
    if self.disable_adapters or self.merged or args or options:
        plain: Tensor = type(self).forward(self, x, *args, **options)
        return plain
    (name,) = self.active_adapters
    a_RD, b_OR = self.lora_A[name].weight, self.lora_B[name].weight
    y: Tensor = _LoraLinear.apply(x, a_RD, b_OR, self.get_base_layer(), self.scaling[name])  # type: ignore[no-untyped-call]
    return y


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a_RD: Tensor, b_OR: Tensor, base: Any, scale: float) -> Tensor:
        ctx.base, ctx.scale = base, scale
        x_TD = x.reshape(-1, x.shape[-1])
        xa_TR = linear(x_TD, a_RD.to(x.dtype))
        y_TO = _frozen_product(base, x_TD)
        y_TO.addmm_(xa_TR, b_OR.T.to(x.dtype), alpha=scale)
        ctx.save_for_backward(x, xa_TR, a_RD, b_OR)
        return y_TO.view(*x.shape[:-1], len(b_OR))  # of no rows, too

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, xa_TR, a_RD, b_OR = ctx.saved_tensors
        needs_x, needs_a, needs_b = ctx.needs_input_grad[:3]
        grad_TO, x_TD = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        grad_b = (grad_TO.T @ xa_TR).mul_(ctx.scale).to(b_OR.dtype) if needs_b else None
        grad_xa_TR = (grad_TO @ b_OR.to(grad.dtype)).mul_(ctx.scale)
        grad_a = (grad_xa_TR.T @ x_TD).to(a_RD.dtype) if needs_a else None
        grad_x = None
        if needs_x:
            grad_x = linear(grad_TO, weight_of(ctx.base, grad.dtype).T)
            grad_x = grad_x.addmm_(grad_xa_TR, a_RD.to(grad.dtype)).view(x.shape)
        return grad_x, grad_a, grad_b, None, None


def _frozen_product(base: Any, x_TD: Tensor) -> Tensor:
    """x·Wᵀ + b. [T, O]"""
    if len(x_TD) < FEW_ROWS:
        few: Tensor = base(x_TD)
        return few
    bias = None if base.bias is None else base.bias.to(x_TD.dtype)
    return product(x_TD, weight_of(base, x_TD.dtype), bias)
