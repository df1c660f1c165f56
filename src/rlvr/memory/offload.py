"""Where the inputs of the decoder layers wait, on the host, between forward and backward.

On CUDA they travel on a separate stream, into page-locked blocks, and backward finds the next one already on its
way. On a CPU the same code makes plain copies, which saves nothing there: it is how the tests run it.
"""
# L layers

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlvr.types import UserError

BLOCK_BYTES = 2**24
SMALL_BLOCK_BYTES = 2**16  # on a CPU, where nothing is locked


class Offload:
    """Blocks of host memory for passes through `num_layers` layers; a pass that has ended leaves its blocks to others.

    So what is page-locked is what passes need at the same time, and a longer one than ever locks only the difference.
    """

    def __init__(self, num_layers: int, device: torch.device) -> None:
        self.num_layers, self.device = num_layers, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.block_bytes = SMALL_BLOCK_BYTES if device.type == "cpu" else BLOCK_BYTES
        self.free: list[Tensor] = []
        self.current: weakref.ref[Pass] | None = None

    def store(self, layer: int, x: Tensor) -> Pass:
        """Copy the input of `layer` to the host. The pass ends when nothing holds what this returns."""
        current = self.current() if self.current is not None else None
        if current is None or not current.expects(layer, x):
            current = Pass(x.shape, x.dtype, self)
            weakref.finalize(current, _leave, current.blocks, self.free)
            self.current = weakref.ref(current)
        current.store(layer, x)
        return current

    def block(self) -> Tensor:
        """Memory for a part of an input. All copies are on one stream, so that of an ended pass can be used again."""
        if self.free:
            return self.free.pop()
        return host_memory(self.block_bytes, page_locked=self.stream is not None, key="memory.offload")


def _leave(blocks: list[Tensor], free: list[Tensor]) -> None:
    free.extend(blocks)
    blocks.clear()


@dataclass(eq=False)
class Pass:
    """The inputs of one pass, all of one shape: on the host, two at a time on the device."""

    shape: torch.Size
    dtype: torch.dtype
    home: Offload
    blocks: list[Tensor] = field(default_factory=list)
    stored: set[int] = field(default_factory=set)
    newest: tuple[int, Tensor, Any] | None = None  # still on the device: the source of the last copy, and its end
    buffers: list[Tensor | None] = field(default_factory=lambda: [None, None])
    loaded: list[int | None] = field(default_factory=lambda: [None, None])
    arrived: list[Any] = field(default_factory=lambda: [None, None])

    def expects(self, layer: int, x: Tensor) -> bool:
        is_next = layer > max(self.stored, default=-1)
        return is_next and (x.shape, x.dtype) == (self.shape, self.dtype)

    def store(self, layer: int, x: Tensor) -> None:
        if self.newest is not None:
            self._wait(self.newest[2])  # then the memory of the one before may be used again
        x = x.contiguous()
        self.newest = (layer, x, self._copy(layer, x, to_host=True))
        self.stored.add(layer)

    def fetch(self, layer: int) -> Tensor:
        """The input of `layer` on the device, and the one below it on its way. Valid until the fetch after the next."""
        if self.newest is not None and self.newest[0] == layer:
            _, x, copied = self.newest
            self.newest = None
            self._load(layer - 1)
            self._wait(copied)
            return x
        self._load(layer)
        self._load(layer - 1)
        self._wait(self.arrived[layer % 2])
        buffer = self.buffers[layer % 2]
        assert buffer is not None
        return buffer

    def _parts(self, layer: int, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Places on the host of the input of `layer`, and the parts of `x`, a contiguous tensor like it, for them."""
        flat, size = x.view(-1).view(torch.uint8), self.home.block_bytes
        first = layer * len(flat)  # of the bytes of all inputs, one behind the other
        for start in range(first - first % size, first + len(flat), size):
            while len(self.blocks) <= start // size:
                self.blocks.append(self.home.block())
            begin, end = max(start, first), min(start + size, first + len(flat))
            yield self.blocks[start // size][begin - start : end - start], flat[begin - first : end - first]

    def _load(self, layer: int) -> None:
        if layer not in self.stored or self.loaded[layer % 2] == layer:
            return
        buffer = self.buffers[layer % 2]
        if buffer is None:  # not both at once: the last layer's input is on the device already
            buffer = torch.empty(self.shape, dtype=self.dtype, device=self.home.device)
            if self.home.stream is not None:
                buffer.record_stream(self.home.stream)
            self.buffers[layer % 2] = buffer
        self.arrived[layer % 2] = self._copy(layer, buffer, to_host=False)
        self.loaded[layer % 2] = layer

    def _copy(self, layer: int, x: Tensor, *, to_host: bool) -> Any:
        """Copy after all work so far, in parallel with later work; returns the event at its end."""
        if self.home.stream is not None:
            self.home.stream.wait_stream(torch.cuda.current_stream(self.home.device))
        with nullcontext() if self.home.stream is None else torch.cuda.stream(self.home.stream):
            for place, part in self._parts(layer, x):
                target, source = (place, part) if to_host else (part, place)
                target.copy_(source, non_blocking=self.home.stream is not None)
            return None if self.home.stream is None else self.home.stream.record_event()

    def _wait(self, event: Any) -> None:
        if event is not None:
            torch.cuda.current_stream(self.home.device).wait_event(event)


def host_memory(size_bytes: int, *, page_locked: bool, key: str) -> Tensor:
    """`size_bytes` of host memory on separate pages, exactly: torch's page-locked memory comes in powers of two.

    Large pages where the system has them: locking small or shared ones takes several times as long. It stays locked
    until no view of it is left. Raises UserError, naming the setting `key`, when so much cannot be page-locked.
    """
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    slab = torch.frombuffer(pages, dtype=torch.uint8)
    if page_locked:
        cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        error = cudart.cudaHostRegister(slab.data_ptr(), size_bytes, 0)
        if int(error) != 0:
            raise UserError(
                f"{key}: {size_bytes / 2**30:.2f} GiB of host memory cannot be page-locked ({error}); turn it off, or "
                "train less at a time: a lower memory.tokens_per_micro_batch or model.lora.rank"
            )
        weakref.finalize(slab.untyped_storage(), cudart.cudaHostUnregister, slab.data_ptr()).atexit = False
    return slab
