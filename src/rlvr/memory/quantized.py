"""Frozen weights in 4 bits: NF4 with double quantisation through bitsandbytes (Dettmers et al. 2023, arXiv 2305.14314).

Each block of 64 weights along the input is a scale and 64 of 16 fixed values; the scales are in 8 bits themselves. The
linear layers of the decoder are quantised; embeddings, head and norms are not.
"""
# O out · D in

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.types import UserError

BLOCK = 64  # weights that share a scale
SCALES = 256  # scales that share one second-level scale
CHECKED_AT_ONCE = 2**18  # weights


@dataclass(frozen=True)
class Nf4:
    """A weight [O, D] in NF4: two values to a byte in `packed`, its shape and scales in bitsandbytes' QuantState."""

    packed: Tensor
    state: Any


@dataclass(frozen=True)
class Quantized:
    """What was quantised: bytes by module name, and why each other linear layer of the decoder was not."""

    bytes_4bit: Mapping[str, int]
    left: Mapping[str, str]


def quantize(model: Any, *, device: torch.device, keep: Collection[str] = ()) -> Quantized:
    """Replace the decoder's linear layers of a transformers model by NF4 ones on `device`, all but those in `keep`.

    A layer whose input width is not a multiple of 64 stays as it is: not every kernel of bitsandbytes computes those
    rightly. Raises UserError when bitsandbytes is missing, or when a weight does not survive the way there and back.
    """
    done, left = {}, {}
    for name, layer in decoder_linears(model).items():
        if name in keep:
            left[name] = "kept"
        elif layer.in_features % BLOCK:
            left[name] = f"its input width {layer.in_features} is not a multiple of {BLOCK}"
        else:
            small = quantized_linear(name, layer, device)
            model.set_submodule(name, small)
            done[name] = weight_bytes(small)
    model.is_loaded_in_4bit = True  # PEFT asks for it, to take its 4-bit LoRA layer
    return Quantized(done, left)


def layers_of(body: Any) -> list[nn.Module]:
    """The decoder layers of a model's body. Raises UserError where they are not in a list `layers`."""
    layers = getattr(body, "layers", None)
    if layers is None:
        raise UserError(
            f"{type(body).__name__} does not keep its layers as others do: set memory.tile_rows to null and "
            "model.quantization to none"
        )
    return list(layers)


def decoder_linears(model: Any) -> dict[str, nn.Linear]:
    """The plain linear layers inside the decoder's layers, by name."""
    inside = {id(module) for layer in layers_of(model.get_decoder()) for module in layer.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside and not is_quantized(module)
    }


def quantized_linear(name: str, layer: nn.Linear, device: torch.device) -> nn.Linear:
    """`layer` with its weight in NF4 on `device`. Raises UserError when the weight does not come back from it."""
    bnb = _bitsandbytes()
    dtype = layer.weight.dtype
    weight_OD = layer.weight.detach().to(device)
    packed, state = bnb.functional.quantize_4bit(weight_OD, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    small = linear_on(Nf4(packed, state), layer, dtype)
    _check_round_trip(name, weight_OD, small)
    return small


def linear_on(weight: Nf4, layer: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    """A linear layer on the very bytes of `weight` that computes in `dtype`, with the bias of `layer`."""
    bnb = _bitsandbytes()
    with torch.device("meta"):
        small: Any = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
        )
    small.weight = bnb.nn.Params4bit(
        weight.packed,
        requires_grad=False,
        quant_state=weight.state,
        blocksize=BLOCK,
        quant_type="nf4",
        bnb_quantized=True,
        module=small,
    )
    small.quant_state = weight.state
    bias, device = layer.bias, weight.packed.device
    small.bias = None if bias is None else nn.Parameter(bias.detach().to(device), requires_grad=False)
    small.support_avx512bf16_for_cpu = False  # it would repack the weight in place, which training cannot read
    small.train(layer.training)
    return small  # type: ignore[no-any-return]


def is_quantized(layer: nn.Module) -> bool:
    return hasattr(getattr(layer, "weight", None), "quant_state")


def weight_of(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """The weight [O, D] in `dtype`: dequantised for this use where it is in 4 bits, and not `unpacked` already."""
    if not is_quantized(layer):
        return layer.weight.to(dtype)
    if (known := vars(layer).get("unpacked")) is not None:
        return known  # type: ignore[no-any-return]
    packed: Any = layer.weight
    weight: Tensor = _bitsandbytes().functional.dequantize_4bit(packed.data, packed.quant_state)
    return weight.to(dtype)


@contextmanager
def unpacked(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, the 4-bit weights of `module` are kept in `dtype`: for uses so near that unpacking once is worth it."""
    layers = [part for part in module.modules() if isinstance(part, nn.Linear) and is_quantized(part)]
    try:
        for layer in layers:
            vars(layer)["unpacked"] = weight_of(layer, dtype)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("unpacked", None)  # memory may have run out before the last one


def scales(model: nn.Module) -> dict[int, Any]:
    """bitsandbytes' state of each quantised layer, by identity: what a deep copy must not copy."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and is_quantized(module)]
    states: list[Any] = [layer.quant_state for layer in layers]
    return {id(state): state for state in states}


def weight_bytes(layer: nn.Module) -> int:
    """Bytes of the weight as it is stored, scales included."""
    weight: Any = layer.weight
    if not is_quantized(layer):
        return int(weight.nbytes)
    state = weight.quant_state
    return int(weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes)


@torch.no_grad()
def _check_round_trip(name: str, weight_OD: Tensor, small: Any) -> None:
    """Each weight must come back within half the widest step of NF4, and products must use what comes back."""
    back_OD = weight_of(small, weight_OD.dtype)
    scale_OB = torch.linalg.vector_norm(weight_OD.view(len(weight_OD), -1, BLOCK), torch.inf, dim=2).float()
    offset = (scale_OB - scale_OB.mean()).abs().flatten()
    groups = nn.functional.pad(offset, (0, -len(offset) % SCALES)).view(-1, SCALES).amax(dim=1)
    scale_error = 0.02 * groups.repeat_interleave(SCALES)[: len(offset)]  # the widest step of 8 bits is below 2 %
    limit_OB1 = (0.16 * scale_OB + scale_error.view_as(scale_OB))[..., None]  # 0.152 is half of NF4's
    x = torch.linspace(-1.0, 1.0, weight_OD.shape[1], device=weight_OD.device).expand(2, -1).to(weight_OD.dtype)
    products, norms = [], []
    rows = max(1, CHECKED_AT_ONCE // weight_OD.shape[1])
    for weight, rounded, limit_RB1 in zip(*(y.split(rows) for y in (weight_OD, back_OD, limit_OB1)), strict=True):
        blocks, back = weight.float().view(len(weight), -1, BLOCK), rounded.float()
        error = (back.view_as(blocks) - blocks).abs_()
        if not bool((error <= blocks.abs().mul_(0.01).add_(limit_RB1)).all()):  # 0.01: rounding
            raise UserError(
                f"model.quantization: {name} of shape {tuple(weight_OD.shape)} does not come back from NF4; use none"
            )
        products.append(x.float() @ back.T)
        norms.append(back.norm())
    expected, product = torch.cat(products, dim=1), small(x).float()
    if small.bias is not None:
        expected += small.bias.float()
    rounding = 8 * torch.finfo(weight_OD.dtype).eps
    widest = expected.norm() + x.float().norm() * torch.stack(norms).norm()
    if not bool((product - expected).norm() <= rounding * widest):
        raise UserError(f"model.quantization: products with {name} in NF4 are wrong on {weight_OD.device}; use none")


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # noqa: PLC0415
    except ImportError:
        raise UserError("model.quantization needs bitsandbytes: pip install 'rlvr[qlora]', or use none") from None
    return bitsandbytes
