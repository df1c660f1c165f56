"""The gate of an MLP, act(gate)·up, with a backward that writes its gradients over what forward kept.

Autograd keeps gate, up, act(gate) and the product, and makes gradients of the same width next to them: six tensors of
T·I at the peak. Here it is four. A second backward through the same graph is an error, not a wrong gradient.
"""
# T tokens · I inner width

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
SEPARATE = ("gate_proj", "up_proj", "down_proj", "act_fn")
TOGETHER = ("gate_up_proj", "down_proj", "activation_fn")


def gate_in_place(model: nn.Module) -> int:
    """Let the gated MLPs of `model` use the gate above; returns how many it knows.

    Modules, names and parameters stay as they are; an MLP of another form, or with another activation, runs as before.
    """
    known = 0
    for module in model.modules():
        parts = {name for name, _ in module.named_children()}
        if parts == set(SEPARATE) and (name := _activation(module.act_fn)):
            forward = partial(_separate, activation=name)
        elif parts == set(TOGETHER) and (name := _activation(module.activation_fn)):
            forward = partial(_together, activation=name)
        else:
            continue
        if _agrees(module, forward):
            module.forward = MethodType(forward, module)
            known += 1
    return known


def _activation(module: Any) -> str | None:
    """The name of the activation, found by its values."""
    x = torch.linspace(-6.0, 6.0, 97)
    return next((name for name, function in ACTIVATIONS.items() if torch.equal(module(x), function(x))), None)


@torch.no_grad()
def _agrees(module: nn.Module, forward: Callable[[Any, Tensor], Tensor]) -> bool:
    """Whether an MLP has the values of `forward` in bfloat16, where every rounding shows, on small and large inputs.

    Others have children of the same names, but clamp the gate, scale it, or keep a part of it.
    """
    generator = torch.Generator().manual_seed(0)
    twin: Any = copy.copy(module)
    vars(twin)["_modules"] = layers = dict(module._modules)
    vars(twin).pop("forward", None)  # of an earlier call
    for name in layers.keys() - {"act_fn", "activation_fn"}:
        outer, inner = (8, 16) if name == "down_proj" else (32 if name == "gate_up_proj" else 16, 8)
        layers[name] = small = nn.Linear(inner, outer, bias=False, device="meta")  # draws no numbers
        small.weight = nn.Parameter(torch.randn(outer, inner, generator=generator).bfloat16())
    x_TD = (torch.randn(64, 8, generator=generator) * torch.logspace(-3, 3, 64)[:, None]).bfloat16()
    try:
        return torch.equal(type(module).forward(twin, x_TD), forward(twin, x_TD))
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False  # it wants to be called in another way


def _separate(self: Any, x: Tensor, *, activation: str) -> Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    if torch.is_grad_enabled():
        down: Tensor = self.down_proj(_Gate.apply(gate, up, activation))  # type: ignore[no-untyped-call]
    else:
        down = self.down_proj(ACTIVATIONS[activation](gate).mul_(up))
    return down


def _together(self: Any, x: Tensor, *, activation: str) -> Tensor:
    down: Tensor = self.down_proj(_GateOfBoth.apply(self.gate_up_proj(x), activation))  # type: ignore[no-untyped-call]
    return down


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_TI: Tensor, up_TI: Tensor, activation: str) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gate_TI, up_TI)
        return ACTIVATIONS[activation](gate_TI).mul_(up_TI)

    @staticmethod
    def backward(ctx: Any, grad_TI: Tensor) -> tuple[Tensor, Tensor, None]:
        gate_TI, up_TI = ctx.saved_tensors
        grad_up_TI = _backward_over(gate_TI, up_TI, grad_TI, ctx.activation)
        return gate_TI, grad_up_TI, None


class _GateOfBoth(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor, activation: str) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(both)
        gate_TI, up_TI = both.chunk(2, dim=-1)
        return ACTIVATIONS[activation](gate_TI).mul_(up_TI)

    @staticmethod
    def backward(ctx: Any, grad_TI: Tensor) -> tuple[Tensor, None]:
        (both,) = ctx.saved_tensors
        gate_TI, up_TI = both.chunk(2, dim=-1)
        up_TI.copy_(_backward_over(gate_TI, up_TI, grad_TI, ctx.activation))
        return both, None


def _backward_over(gate_TI: Tensor, up_TI: Tensor, grad_TI: Tensor, activation: str) -> Tensor:
    """The gradient of up; that of gate is written over gate, and up is used up."""
    grad_up_TI = ACTIVATIONS[activation](gate_TI).mul_(grad_TI)
    up_TI.mul_(grad_TI)
    if activation == "silu":
        torch.ops.aten.silu_backward.grad_input(up_TI, gate_TI, grad_input=gate_TI)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        torch.ops.aten.gelu_backward.grad_input(up_TI, gate_TI, approximate=approximate, grad_input=gate_TI)
    return grad_up_TI
