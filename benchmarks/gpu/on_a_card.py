"""What a program needs to take, on tensors of the device `meta`, the branches that it takes on a card.

Tensors without memory have no values and are not on CUDA. All that asks for either is replaced here, and nothing else:
the kernels' choice by device, Triton's launches, checks at load and norms that read values, and memory of the host.
"""
# M rows of a · N rows of b

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import bitsandbytes
import torch
from torch import Tensor, nn
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from rlvr.attention import efficient, flash
from rlvr.attention.pieces import Piece
from rlvr.logprob import Impl, fused
from rlvr.loss import policy as loss_policy
from rlvr.memory import layer, norm, offload, quantized, states
from tracing import META, Trace


@contextmanager
def as_on_a_card(trace: Trace, *, has_flash: bool) -> Iterator[None]:
    """Meanwhile the project computes on `meta` as on an NVIDIA card, as far as memory and work go.

    `has_flash`: of Ampere or newer, for which torch has flash attention.
    """
    clip = nn.utils.clip_grad_norm_

    def product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
        if a_MK.dtype in fused.HALF:
            return torch.mm(a_MK, b_NK.T, out_dtype=torch.float32)
        return torch.mm(a_MK, b_NK.T)

    def launch(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        trace.launched(x for x in (*args, *options.values()) if isinstance(x, Tensor))

    def clipped(*args: Any, **options: Any) -> Tensor:
        clip(*args, **options)
        return torch.ones(())  # whose value can be read

    substitutes: list[tuple[Any, str, Any]] = [
        (flash, "suits", lambda x: has_flash and suits_flash(x)),
        (efficient, "suits", suits_efficient),
        (fused, "product", product),
        (loss_policy, "resolve", resolve),
        (norm, "resolve", resolve),
        (JITFunction, "run", launch),
        (InterpretedFunction, "run", launch),
        (nn.utils, "clip_grad_norm_", clipped),
        (sys.modules[torch.optim.Optimizer.__module__], "_get_fused_kernels_supported_devices", lambda: ["meta"]),
        (layer, "_probe", lambda _, layers, norms, **__: [one is not None for one in norms]),
        (quantized, "_check_round_trip", lambda *_: None),
        (offload, "host_memory", trace.host_memory),
        (states, "host_memory", trace.host_memory),
    ]
    with ExitStack() as stack:
        stack.enter_context(patch.dict(bitsandbytes.functional.name2qmap))  # keeps tables on the device that asks first
        for owner, name, value in substitutes:
            stack.enter_context(patch.object(owner, name, value))
        yield


def suits_flash(x: Tensor) -> bool:
    """flash.suits of such a card."""
    return x.dtype in fused.HALF and len(x) > 1 and x.shape[-1] <= 256 and x.shape[-1] % 8 == 0


def suits_efficient(x: Tensor, piece: Piece) -> bool:
    """efficient.suits of a card."""
    return x.dtype != torch.float64 and x.shape[-1] % 8 == 0 and piece.window is None


def resolve(impl: Impl, x: Tensor) -> Impl:
    """logprob.resolve of a card; on the host, where norms show their form, nothing changes."""
    return ("triton" if x.device == META else "torch") if impl == "auto" else impl
