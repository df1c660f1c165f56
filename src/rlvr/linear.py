"""Matrix products on a CPU, through oneDNN where it is faster than what torch takes by itself.

torch sends float32 products to MKL, which leaves AVX-512 unused on processors of other makers: half the speed. oneDNN
is in the same build of torch; it needs longer to begin. Without gradients it also keeps a weight in its own layout,
which pays when few rows meet it, as in sampling. Measured in docs/decisions/0006.
"""
# ... any leading dimensions · D in · O out

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and platform.machine() in ("x86_64", "AMD64")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
HAS_AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
HAS_BFLOAT16 = HAS_ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # not with AVX2 alone
LIKE_ROWS = 4  # from so many on, MKL rounds a row as among others
PACKED_NUMBERS = 2**22  # with AVX2 alone, weights of so many numbers are packed: MKL packs them at every product
FEW_ROWS, SMALL = 8, 2**24  # below, of rows or of multiplications, torch's own bfloat16 serves, and takes no copy
ROWS, SUMMANDS, WEIGHTS = 1024, 1024, 2**22  # in float32 at once: rows of x, parts of a long sum, numbers of the weight


def linear(x: Tensor, weight_OD: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b with gradients, [..., D] → [..., O]; rounded once, as `product` does."""
    if _suits(x, weight_OD) and (x.dtype == torch.float32 or not HAS_BFLOAT16):
        product: Tensor = _Product.apply(x, weight_OD, bias)  # type: ignore[no-untyped-call]
        return product
    return _torchs(x, weight_OD, bias)


def product(x: Tensor, weight_OD: Tensor, bias: Tensor | None) -> Tensor:
    """x·Wᵀ + b from the weight as it lies there, without gradients, [..., D] → [..., O]."""
    return _product(x, weight_OD, bias) if _suits(x, weight_OD) else _torchs(x, weight_OD, bias)


class Linear(nn.Linear):
    """nn.Linear with its products through oneDNN where that is faster.

    Without gradients it keeps a second copy of its weight in oneDNN's layout where that pays, unless `keeps_packed` is
    off.
    """

    keeps_packed: bool = True
    packed: tuple[int, Tensor] | None = None  # version of the weight, and the weight in oneDNN's layout

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return linear(x, self.weight, self.bias)
        if self.keeps_packed and _suits_packed(x, self.weight):
            return _onednn(x, self._packed(), self.bias)
        return product(x, self.weight, self.bias)

    def _packed(self) -> Tensor:
        version = self.weight._version  # counts changes in place
        if self.packed is None or self.packed[0] != version:
            self.packed = version, torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), None)
        return self.packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "packed"}


def through_onednn(model: nn.Module, *, keeps_packed: bool = True) -> nn.Module:
    """`model`, whose plain linear layers on a CPU have become Linear; their parameters stay the same objects."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu":
            module.__class__ = Linear
            vars(module)["keeps_packed"] = keeps_packed
    return model


def _suits(x: Tensor, weight_OD: Tensor) -> bool:
    """Whether this product goes through here; torch computes the others by itself, on every processor."""
    return _is_possible(x, weight_OD) and (x.dtype == torch.bfloat16 or HAS_AVX512)


def _suits_packed(x: Tensor, weight_OD: Tensor) -> bool:
    """Whether a weight in oneDNN's layout is faster than as it lies there."""
    if not _is_possible(x, weight_OD):
        return False
    return HAS_BFLOAT16 if x.dtype == torch.bfloat16 else HAS_AVX512 or weight_OD.numel() >= PACKED_NUMBERS


def _is_possible(x: Tensor, weight_OD: Tensor) -> bool:
    is_known = x.dtype == weight_OD.dtype and x.dtype in (torch.float32, torch.bfloat16)
    return HAS_ONEDNN and x.device.type == "cpu" and is_known


def _torchs(x: Tensor, weight_OD: Tensor, bias: Tensor | None) -> Tensor:
    """torch's own product; one or a few rows among zeros, so that they are rounded as among others."""
    rows = _rows(x)
    if x.device.type != "cpu" or not 0 < rows < LIKE_ROWS:
        return F.linear(x, weight_OD, bias)
    x_TD = F.pad(x.reshape(rows, -1), (0, 0, 0, LIKE_ROWS - rows))
    return F.linear(x_TD, weight_OD, bias)[:rows].view(*x.shape[:-1], -1)


def _rows(x: Tensor) -> int:
    return x.numel() // max(1, x.shape[-1])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OD: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OD)
        return _product(x, weight_OD, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_OD = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        grad_x = _product(grad, weight_OD.T) if need_x else None
        flat_grad, flat_x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        grad_weight = _product(flat_grad.T, flat_x.T) if need_weight else None
        return grad_x, grad_weight, flat_grad.sum(0) if need_bias else None


def _product(x: Tensor, weight_OD: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.dtype == torch.bfloat16 and not HAS_BFLOAT16:
        return _through_float32(x, weight_OD, bias)
    return _onednn(x, weight_OD, bias)


def _onednn(x: Tensor, weight_OD: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OD, bias, "none", [], "")
    return product


def _through_float32(x: Tensor, weight_OD: Tensor, bias: Tensor | None) -> Tensor:
    """A bfloat16 product on a processor without it: summed in float32 and rounded once.

    Rows of x, and the wider of D and O, are taken a block at a time, so that no large copy in float32 exists.
    """
    outer, inner = weight_OD.shape
    x_TD = x.reshape(-1, inner)
    if len(x_TD) < FEW_ROWS or x.numel() * outer < SMALL:
        return F.linear(x, weight_OD, bias)
    y_TO = x.new_empty(len(x_TD), outer)
    for rows in _blocks(len(x_TD), ROWS):
        if inner > outer:
            sums = sum(x_TD[rows, part].float() @ weight_OD[:, part].float().T for part in _blocks(inner, SUMMANDS))
            y_TO[rows] = sums if bias is None else sums + bias.float()
        else:
            wide = x_TD[rows].float()
            for part in _blocks(outer, max(1, WEIGHTS // inner)):
                y_TO[rows, part] = F.linear(wide, weight_OD[part].float(), None if bias is None else bias[part].float())
    return y_TO.view(*x.shape[:-1], outer)


def _blocks(size: int, length: int) -> Iterator[slice]:
    return (slice(first, first + length) for first in range(0, size, length))
