"""What a run really needs: the peak of each phase, measured.

On CUDA the allocator counts. On a CPU every operation is looked at, and the bytes of the tensor storages that are
alive after it are counted: the same quantity, without what an operation uses inside.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@dataclass(frozen=True)
class Peak:
    """The most bytes of a phase: in live tensors, held by the allocator, and in use on the device by anyone.

    The last two are None on a CPU.
    """

    allocated_bytes: int
    reserved_bytes: int | None
    device_bytes: int | None


class Ledger:
    """Peaks by phase. `resident` are tensors that are there before the first phase, for example the weights.

    A phase that runs again keeps its largest peak. Phases do not nest. On a CPU each operation costs some microseconds
    more inside a phase.
    """

    def __init__(self, device: torch.device, resident: Iterable[Tensor]) -> None:
        self.device = device
        self.peaks: dict[str, Peak] = {}
        self.live = LiveStorages(device)
        if device.type != "cuda":
            for tensor in resident:
                self.live.count(tensor)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside. On an error nothing is noted."""
        measured = self._on_cuda() if self.device.type == "cuda" else self._on_cpu()
        with measured as peaks:
            yield
        peak, before = peaks[0], self.peaks.get(name)
        if before is None or peak.allocated_bytes > before.allocated_bytes:
            self.peaks[name] = peak

    @contextmanager
    def _on_cpu(self) -> Iterator[list[Peak]]:
        peaks: list[Peak] = []
        self.live.peak_bytes = self.live.bytes
        with self.live:
            yield peaks
        peaks.append(Peak(self.live.peak_bytes, None, None))

    @contextmanager
    def _on_cuda(self) -> Iterator[list[Peak]]:
        peaks: list[Peak] = []
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        yield peaks
        torch.cuda.synchronize(self.device)
        free, total = torch.cuda.mem_get_info(self.device)
        others = total - free - torch.cuda.memory_reserved(self.device)
        reserved = torch.cuda.max_memory_reserved(self.device)
        peaks.append(Peak(torch.cuda.max_memory_allocated(self.device), reserved, reserved + others))


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages on `device` that operations read or made while this mode was on and that still live."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = device.type
        self.bytes = 0
        self.peak_bytes = 0
        self.sizes: dict[weakref.ref[Any], int] = {}

    def count(self, tensor: Tensor) -> None:
        """Count the tensor's storage from now until it is freed; once, however many tensors share it."""
        if tensor.device.type != self.kind or tensor.is_mkldnn:  # oneDNN's own layout has no storage to look at
            return
        storage = tensor.untyped_storage()
        reference = weakref.ref(storage, self._freed)
        size = storage.nbytes()
        self.bytes += size - self.sizes.get(reference, 0)
        self.sizes[reference] = size
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        for value in tree_iter((args, kwargs, out)):
            if isinstance(value, Tensor):
                self.count(value)
        return out

    def _freed(self, reference: weakref.ref[Any]) -> None:
        self.bytes -= self.sizes.pop(reference)
