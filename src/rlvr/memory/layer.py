"""One function per decoder layer: forward keeps its input only, backward computes the rest again, the MLP in tiles.

A decoder layer is two halves, h = x + attention(x) and y = h + mlp(h), each with its norms. Backward computes the
attention half again with a graph, runs the MLP half forward and backward on a few rows at a time, which rows allow
since they do not meet there, and then goes back through attention. So the MLP runs forward twice in all, as with
checkpoints (Chen et al. 2016, arXiv 1604.06174), and its wide tensors exist for one tile.
"""
# S tokens · D hidden

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge, save_on_cpu
from torch.utils.checkpoint import checkpoint

from rlvr.attention import PackedLayout
from rlvr.attention.unpadded import Kept
from rlvr.memory.offload import Offload
from rlvr.memory.quantized import layers_of, unpacked

PROBE_TOKENS = 8


@dataclass(frozen=True)
class Norms:
    """The names of a layer's norms around its two halves."""

    before_attention: str
    after_attention: str | None
    before_mlp: str
    after_mlp: str | None


TWO_NORMS = Norms("input_layernorm", None, "post_attention_layernorm", None)
FOUR_NORMS = Norms(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)


def install(model: Any, *, tile_rows: int, offload: bool, keep_attention: bool = False) -> list[str]:
    """Let the decoder layers of `model` keep nothing but their input for backward, on the host where `offload`.

    With `keep_attention` they keep the output and the log-sum-exp of their attention, too, in the same place: backward
    then runs attention's backward alone, on the same bits.

    Modules, names and parameters stay as they are. Without gradients a layer runs the same two halves, so that both
    passes round alike; a sampler's pass, which has a cache, runs as before. Returns the names of layers that are not
    built of the two halves above, as a probe of a few tokens finds: those run under torch.utils.checkpoint, their MLP
    in one piece. Raises ValueError when `tile_rows` is below 1.
    """
    if tile_rows < 1:
        raise ValueError(f"tile_rows is {tile_rows}; it must be 1 or more")
    body = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_decoder()
    layers = layers_of(body)
    for layer in layers:
        vars(layer).pop("forward", None)  # of an install before: the probe is of the layer's own
    norms = [_norms(layer) for layer in layers]
    agrees = _probe(body, layers, norms, tile_rows=max(1, min(tile_rows, PROBE_TOKENS // 2)))
    device = next(body.parameters()).device
    _alone(device)
    homes = tuple(Offload(len(layers), device) for _ in range(3 if keep_attention else 1)) if offload else ()
    unknown = []
    for number, (layer, its_norms) in enumerate(zip(layers, norms, strict=True)):
        if its_norms is not None and agrees[number]:
            _replace_forward(layer, LayerSettings(number, its_norms, tile_rows, homes, keep_attention))
        else:
            _replace_forward(layer, device if offload else None)
            unknown.append(f"layers.{number}")
    return unknown


@dataclass(frozen=True)
class LayerSettings:
    """How layer `number` runs; holds no module, so a copy of the model runs the copy's modules.

    `homes` is where what it keeps waits: its input, attention's output and log-sum-exp; empty: on the device.
    """

    number: int
    norms: Norms
    tile_rows: int
    homes: tuple[Offload, ...] = ()
    keeps_attention: bool = False


@dataclass(frozen=True)
class LayerCall:
    """A layer, how it runs, and what its attention was called with."""

    layer: Any
    settings: LayerSettings
    options: Mapping[str, Any]

    def attention_half(self, x: Tensor, kept: Kept | None = None) -> Tensor:
        more = {} if kept is None else {"kept": kept}
        return attention_half(self.layer, self.settings.norms, x, {**self.options, **more})

    def mlp_half(self, x: Tensor) -> Tensor:
        return mlp_half(self.layer, self.settings.norms, x)

    @contextmanager
    def tiles(self, x: Tensor) -> Iterator[list[slice]]:
        """The rows of each tile; inside, where there are several, the MLP's weights are unpacked once for all."""
        num_rows, tile_rows = x.shape[1], self.settings.tile_rows
        with unpacked(self.layer.mlp, x.dtype) if num_rows > tile_rows else nullcontext():
            yield [slice(first, first + tile_rows) for first in range(0, num_rows, tile_rows)]

    def trained(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters with a gradient, of the attention half and of the MLP half."""
        norms = self.settings.norms
        halves = (
            (norms.before_attention, "self_attn", norms.after_attention),
            (norms.before_mlp, "mlp", norms.after_mlp),
        )
        attention, mlp = ([getattr(self.layer, name) for name in half if name is not None] for half in halves)
        return _trained(attention), _trained(mlp)


def attention_half(layer: Any, norms: Norms, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    """x + norm(attention(norm(x))), [1, S, D]."""
    out: Tensor = layer.self_attn(hidden_states=getattr(layer, norms.before_attention)(x), **options)[0]
    return x + (out if norms.after_attention is None else getattr(layer, norms.after_attention)(out))


def mlp_half(layer: Any, norms: Norms, x: Tensor) -> Tensor:
    """x + norm(mlp(norm(x))) of any rows, [1, ..., D]; an MLP of experts may give what its router said, too."""
    result = layer.mlp(getattr(layer, norms.before_mlp)(x))
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return x + (out if norms.after_mlp is None else getattr(layer, norms.after_mlp)(out))


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, call: LayerCall, *trained: Tensor) -> Tensor:
        settings = call.settings
        kept = Kept() if settings.keeps_attention else None
        ctx.call = call
        ctx.parked = [home.store(settings.number, x) for home in settings.homes[:1]]
        h = call.attention_half(x, kept)
        outputs = () if kept is None else kept.found
        ctx.parked += [home.store(settings.number, y) for home, y in zip(settings.homes[1:], outputs, strict=False)]
        ctx.num_kept = 0 if ctx.parked else 1 + len(outputs)
        ctx.save_for_backward(*(() if ctx.parked else (x, *outputs)), *trained)
        return _in_tiles(call, h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        is_ours = _holders(grad) == _alone(grad.device)
        call: LayerCall = ctx.call
        saved = list(ctx.saved_tensors)
        trained = saved[ctx.num_kept :]
        x, *outputs = saved[: ctx.num_kept] or [parked.fetch(call.settings.number) for parked in ctx.parked]
        del saved
        x = x.detach().requires_grad_(ctx.needs_input_grad[0])
        of_attention = len(call.trained()[0])
        with torch.enable_grad():
            h = call.attention_half(x, Kept(tuple(outputs)) if outputs else None)
        del outputs
        grad_h, mlp_grads = _mlp_backward(call, h.detach(), grad, trained[of_attention:], is_ours=is_ours)
        if not h.requires_grad:
            return None, None, *[None] * of_attention, *mlp_grads
        end_of_half = get_gradient_edge(h)
        del h  # its values are of no more use
        leaves = [*([x] if x.requires_grad else []), *trained[:of_attention]]
        gradients = list(torch.autograd.grad(end_of_half, leaves, grad_h, allow_unused=True))
        return gradients.pop(0) if x.requires_grad else None, None, *gradients, *mlp_grads


def _in_tiles(call: LayerCall, h: Tensor) -> Tensor:
    out = torch.empty_like(h)
    with call.tiles(h) as tiles:
        for rows in tiles:
            out[:, rows] = call.mlp_half(h[:, rows])
    return out


def _mlp_backward(
    call: LayerCall, h: Tensor, grad: Tensor, trained: list[Tensor], *, is_ours: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of the MLP half with respect to its input and `trained`, forward and backward tile by tile.

    That of the input is written over `grad` where `is_ours`.
    """
    grad_h = grad if is_ours else torch.empty_like(h)
    totals: list[Tensor | None] = [None] * len(trained)
    with call.tiles(h) as tiles:
        for rows in tiles:
            tile = h[:, rows].detach().requires_grad_()
            with torch.enable_grad():
                out = call.mlp_half(tile)
            grad_h[:, rows], *gradients = torch.autograd.grad(out, [tile, *trained], grad[:, rows], allow_unused=True)
            del out
            totals = [_sum(total, part) for total, part in zip(totals, gradients, strict=True)]
            del gradients  # before those of the next tile
    return grad_h, totals


def _sum(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    return part if total is None or part is None else total.add_(part)


def _holders(grad: Tensor) -> tuple[int, ...]:
    """Reference counts of a gradient and its storage, in C++ and in Python: a hook may have kept the object itself."""
    storage = grad.untyped_storage()
    in_torch = grad._use_count(), torch._C._storage_Use_Count(storage._cdata)  # type: ignore[attr-defined]
    return *in_torch, sys.getrefcount(grad), sys.getrefcount(storage)


class _Alone(torch.autograd.Function):
    """Records the counts of `_holders` in a backward pass whose gradient has no other holder."""

    found: tuple[int, ...] = ()

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        _Alone.found = _holders(grad)
        return grad


@cache
def _alone(device: torch.device) -> tuple[int, ...]:
    """What it says on `device`, whose backward passes may run in a thread of autograd. Measured when layers are
    installed: nothing goes backward at import, nor within another backward pass.
    """
    with torch.enable_grad():
        _Alone.apply(torch.ones(1, device=device, requires_grad=True)).mul(2.0).backward()  # type: ignore[no-untyped-call]
    return _Alone.found


def _replace_forward(layer: Any, how: LayerSettings | torch.device | None) -> None:
    """Give this one module another forward, as a bound method: a deep copy of the module gets its own."""

    def forward(self: Any, hidden_states: Tensor, *more: Any, **options: Any) -> Any:
        plain = partial(type(self).forward, self)
        if options.get("past_key_values") is not None:
            return plain(hidden_states, *more, **options)
        if not isinstance(how, LayerSettings):
            if not torch.is_grad_enabled():
                return plain(hidden_states, *more, **options)
            saved = nullcontext() if how is None else save_on_cpu(pin_memory=how.type == "cuda")
            with saved:
                return checkpoint(plain, hidden_states, *more, use_reentrant=False, **options)
        assert not more  # as in the probe
        call = LayerCall(self, how, options)
        attention, mlp = call.trained()
        if not torch.is_grad_enabled() or not (hidden_states.requires_grad or attention or mlp):
            with torch.no_grad():
                return _in_tiles(call, call.attention_half(hidden_states))
        return _Layer.apply(hidden_states, call, *attention, *mlp)  # type: ignore[no-untyped-call]

    layer.forward = MethodType(forward, layer)


def _trained(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    return [weight for module in modules for weight in module.parameters() if weight.requires_grad]


def _norms(layer: nn.Module) -> Norms | None:
    """The norms of a layer by the parts that it has; None when it has others, or drops values at random."""
    if any(isinstance(module, nn.Dropout) and module.p > 0.0 and module.training for module in layer.modules()):
        return None
    parts = {name for name, part in layer.named_children() if not isinstance(part, (nn.Dropout, nn.Identity))}
    known = {
        frozenset({"self_attn", "mlp", *(name for name in vars(norms).values() if name is not None)}): norms
        for norms in (TWO_NORMS, FOUR_NORMS)
    }
    has_own = any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False))
    return None if has_own else known.get(frozenset(parts))


@torch.no_grad()
def _probe(body: Any, layers: Sequence[nn.Module], norms: Sequence[Norms | None], *, tile_rows: int) -> list[bool]:
    """Which layers give what their two halves give, on a few tokens: exactly in one piece, nearly in tiles."""
    agrees = [False] * len(layers)

    def compare(number: int, layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        its_norms = norms[number]
        if its_norms is None or len(inputs) != 1 or not isinstance(output, Tensor):
            return
        whole, tiled = (
            LayerCall(layer, LayerSettings(number, its_norms, n), options) for n in (PROBE_TOKENS, tile_rows)
        )
        try:
            h = whole.attention_half(inputs[0])
            parts = _in_tiles(whole, h), _in_tiles(tiled, h)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError):
            return  # its parts want to be called in another way
        size, rounding = (output - inputs[0]).norm(), torch.finfo(output.dtype).eps
        is_whole = (parts[0] - output).norm() <= rounding * size
        agrees[number] = bool(is_whole and (parts[1] - output).norm() <= 16 * rounding * output.norm())

    hooks = [
        layer.register_forward_hook(partial(compare, number), with_kwargs=True) for number, layer in enumerate(layers)
    ]
    device = next(body.parameters()).device
    token_S = torch.arange(PROBE_TOKENS, device=device) % body.config.vocab_size
    layout = PackedLayout([], [PROBE_TOKENS], [0], device)
    try:
        body(input_ids=token_S[None], position_ids=torch.arange(PROBE_TOKENS, device=device)[None],
             use_cache=False, layout=layout)  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    return agrees
