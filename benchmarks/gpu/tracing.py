"""What every operation of a program on tensors without memory allocates, frees, computes and moves.

Tensors of the device `meta` have shapes and types and no values. Each that an operation makes counts with the bytes
that it would have on a card, from then until it is freed: the quantity that torch.cuda.max_memory_allocated shows.
"""
# S tokens · H query heads · N key/value heads · E head size

from __future__ import annotations

import sys
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter

from peaks import Event, live_bytes
from rlvr.plan.work import Work

META = torch.device("meta")
WORKSPACE = "inside attention's backward"
FLOAT_BYTES = 4
EFFICIENT_BACKWARD = "aten::_efficient_attention_backward"
SOURCES = ("/rlvr/", "/transformers/", "/peft/", "/bitsandbytes/")
PRODUCTS = {"aten::mm": (0, 1), "aten::bmm": (0, 1), "aten::addmm": (1, 2), "aten::addmm_": (1, 2)}
UNPACKED_BYTES = 2.52  # of a weight in NF4 that is read, and written in 16 bits


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The events and the work of what runs in it. Storages in `on_host` are not the card's."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.names: dict[int, str] = {}  # by number of the storage
        self.live: dict[weakref.ref[Any], int] = {}
        self.on_host: dict[weakref.ref[Any], int] = {}
        self.host_bytes = 0  # at most
        self.work: dict[str, Work] = defaultdict(Work)
        self.traffic: Counter[str] = Counter()  # other_bytes by the function that asks for them
        self.phases = ["before"]
        self.count = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs inside belongs to `name`, but for phases in it."""
        self.phases.append(name)
        self._event(0, 0)
        try:
            yield
        finally:
            self.phases.pop()
            self._event(0, 0)

    def begin(self) -> int:
        """Forget the work until now; the number of the next event."""
        self.work.clear()
        self.traffic.clear()
        return len(self.events)

    @property
    def live_bytes(self) -> int:
        return live_bytes(self.events)

    def hold(self, tensors: Iterable[Tensor], name: str) -> None:
        """Count what exists already, and call it `name`."""
        for tensor in tensors:
            self._count(tensor, name)
            number = self.live.get(weakref.ref(tensor.untyped_storage()))
            if number is not None:
                self.names[number] = name

    def host_memory(self, size_bytes: int, **_: Any) -> Tensor:
        """A slab that belongs to the host."""
        with _disable_current_modes():
            slab = torch.empty(size_bytes, dtype=torch.uint8, device=META)
        self.on_host[weakref.ref(slab.untyped_storage(), self.on_host.pop)] = size_bytes
        self.host_bytes = max(self.host_bytes, sum(self.on_host.values()))
        return slab

    def launched(self, tensors: Iterable[Tensor]) -> None:
        """A kernel that reads or writes each of `tensors` once."""
        work = self.work[self.phases[-1]]
        work.launches += 1
        self._moved(work, sum(x.nbytes for x in tensors))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = _efficient_gradients(*args) if func._schema.name == EFFICIENT_BACKWARD else func(*args, **kwargs)
        read = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        known = {x.untyped_storage()._cdata for x in read}
        made = [x for x in tree_iter(out) if isinstance(x, Tensor) and x.untyped_storage()._cdata not in known]
        for tensor in made:
            self._count(tensor, None, func)
        self._inside(workspaces(func, args))
        if any(x.device == META for x in (*made, *read)) and (made or _writes(func)):
            self._compute(func, args, kwargs, read, made)
        return out

    def _inside(self, sizes: Sequence[int]) -> None:
        """What an operation allocates, and frees at its end."""
        numbers = range(self.count + 1, self.count + 1 + len(sizes))
        self.count += len(sizes)
        for number, size_bytes in zip(numbers, sizes, strict=True):
            self.names[number] = WORKSPACE
            self._event(number, size_bytes)
        for number in numbers:
            self._event(number, 0)

    def _event(self, number: int, size_bytes: int) -> None:
        self.events.append(Event(number, size_bytes, self.phases[-1]))

    def _count(self, tensor: Tensor, name: str | None, func: Any = None) -> None:
        storage = tensor.untyped_storage()
        key = weakref.ref(storage, self._freed)
        if tensor.device != META or key in self.live or key in self.on_host or not storage.nbytes():
            return
        self.count += 1
        self.live[key] = self.count
        self.names[self.count] = name or f"{_site()}: {func._schema.name.partition('::')[2]} {_form(tensor)}"
        self._event(self.count, storage.nbytes())

    def _freed(self, key: weakref.ref[Any]) -> None:
        self._event(self.live.pop(key), 0)

    def _is_host(self, tensor: Tensor) -> bool:
        return weakref.ref(tensor.untyped_storage()) in self.on_host

    def _compute(self, func: Any, args: Any, kwargs: Any, read: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        work, name = self.work[self.phases[-1]], func._schema.name
        if "empty" in name:
            return
        work.launches += 1
        moved = sum(x.nbytes for x in (*read, *made))
        if name in PRODUCTS:
            a, b = (args[i] for i in PRODUCTS[name])
            work.product_flops += 2.0 * a.numel() * b.shape[-1]
            work.product_bytes += moved
        elif name == "bitsandbytes::gemm_4bit":  # with many rows it unpacks, and multiplies
            rows, (outputs, inputs) = args[0].numel() // args[0].shape[-1], args[2]
            work.product_flops += 2.0 * rows * outputs * inputs
            work.product_bytes += moved
            work.unpacked_bytes += int(UNPACKED_BYTES * outputs * inputs)
        elif name == "aten::_flash_attention_forward":
            work.attention_flops += _attention_flops(args[0], args[3], args[4], args[8], kwargs)
        elif name == "aten::_flash_attention_backward":
            work.attention_flops += 2.5 * _attention_flops(args[1], args[6], args[7], args[11], kwargs)
        elif name == "aten::_efficient_attention_forward":
            work.attention_flops += _sequence_flops(args[0], args[1], args[9])
        elif name == EFFICIENT_BACKWARD:
            work.attention_flops += 2.5 * _sequence_flops(args[1], args[2], args[14])
        elif "dequantize" in name:
            work.unpacked_bytes += moved
        elif name == "aten::copy_" and self._is_host(args[0]):
            work.to_host_bytes += args[0].nbytes
        elif name in ("aten::copy_", "aten::_to_copy") and self._is_host(read[-1]):
            work.from_host_bytes += read[-1].nbytes
        else:
            self._moved(work, moved)

    def _moved(self, work: Work, size_bytes: int) -> None:
        work.other_bytes += size_bytes
        self.traffic[_site()] += size_bytes


def workspaces(func: Any, args: Any) -> list[int]:
    """What an operation allocates inside on CUDA: torch 2.11 to 2.13, attention_backward.cu, flash_api.cpp and
    kernel_backward.h."""
    if func._schema.name == EFFICIENT_BACKWARD:
        return _efficient_workspaces(*args[:2])
    if func._schema.name != "aten::_flash_attention_backward":
        return []
    dout, q, k, _, out = args[:5]
    (tokens, heads, size), shared, sequences = q.shape, k.shape[1], args[6].numel() - 1
    multiple = 32 if size <= 128 else 64
    padded, rounded = tokens + 128 * sequences, -(-size // multiple) * multiple
    copies = [x.nbytes for x in (dout, out) if not x.is_contiguous()]
    expanded = [len(k) * heads * size * k.element_size()] * (2 if heads != shared else 0)
    return [*copies, FLOAT_BYTES * heads * padded, FLOAT_BYTES * padded * heads * rounded, *expanded]


def _efficient_gradients(_: Tensor, q: Tensor, k: Tensor, v: Tensor, *__: Any) -> tuple[Tensor, ...]:
    """What the operator returns; torch's own description of its shapes lacks an argument in 2.13."""
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.empty(0, device=q.device)


def _efficient_workspaces(dout: Tensor, q: Tensor) -> list[int]:
    """In float32 what is summed up to delta; in 16 bits sums of dq. Delta itself; without the blocks of dk and dv."""
    copies = [] if dout.is_contiguous() else [dout.nbytes]
    _, tokens, heads, size = q.shape
    rounded = tokens if q.dtype == torch.float32 else -(-tokens // 64) * 64
    return [*copies, FLOAT_BYTES * heads * tokens, FLOAT_BYTES * heads * rounded * size]


def _sequence_flops(q: Tensor, k: Tensor, is_causal: bool) -> float:
    """As _attention_flops, of one sequence [1, L, H, E]."""
    return 4.0 * _pairs(q.shape[1], k.shape[1], is_causal, -1) * q.shape[2] * q.shape[3]


def _attention_flops(q: Tensor, query_bounds: Tensor, key_bounds: Tensor, is_causal: bool, kwargs: Any) -> float:
    """Two products of queries × keys that they see × size for each head."""
    left, right = (-1 if (size := kwargs.get(f"window_size_{side}")) is None else size for side in ("left", "right"))
    lengths = zip(query_bounds.diff().tolist(), key_bounds.diff().tolist(), strict=True)
    pairs = sum(_pairs(queries, keys, is_causal or right == 0, left) for queries, keys in lengths)
    return 4.0 * pairs * q.shape[1] * q.shape[2]


def _pairs(queries: int, keys: int, is_causal: bool, left: int) -> float:
    """Pairs of a query and a key that it sees; a window over earlier keys leaves about half of them."""
    if not is_causal:
        return queries * keys * (1.0 if left == -1 else 0.5)
    seen = queries if left == -1 else min(queries, left + 1)
    return queries * seen - seen**2 / 2


def _writes(func: Any) -> bool:
    """Whether an operation changes one of its arguments."""
    return any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)


def _form(tensor: Tensor) -> str:
    """Type and shape, in short."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _site() -> str:
    """The function of the project, or of a library under it, that asks."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if any(part in name for part in SOURCES):
            return f"{'/'.join(name.rsplit('/', 2)[1:])} {frame.f_code.co_name}"
        frame = frame.f_back
    return "autograd"
