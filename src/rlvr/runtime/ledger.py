"""Measure the peak memory of each phase of a run.

On CUDA the allocator counts. On a CPU the live tensor storages are counted after every operation: the same quantity,
without the memory that an operation uses internally.
"""

from __future__ import annotations

import platform
import resource
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@dataclass(frozen=True)
class Peak:
    """The peak bytes of a phase: in live tensors, held by the allocator, and in use on the device by any process.

    The last two are None on a CPU.
    """

    allocated_bytes: int
    reserved_bytes: int | None
    device_bytes: int | None


class Ledger:
    """Peaks by phase. `resident` are tensors that exist before the first phase, for example the weights.

    A phase that runs again keeps its largest peak. A nested phase counts for itself alone. On a CPU, `process_bytes`
    also has the resident memory of the process. Counting there costs some microseconds per operation: `peaks` holds
    only the phases that ran while `is_counting`.
    """

    def __init__(self, device: torch.device, resident: Iterable[Tensor]) -> None:
        self.device = device
        self.peaks: dict[str, Peak] = {}
        self.process_bytes: dict[str, int] = {}
        self.is_counting = True
        self.live = LiveStorages(device, reads=True)
        self.count(resident)
        self._open: list[Measured] = []

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count `tensors` from now until they are freed. On CUDA the allocator knows them."""
        if self.device.type != "cuda":
            for tensor in tensors:
                self.live.count(tensor)

    @contextmanager
    def phase(self, name: str) -> Iterator[Measured]:
        """Measure the block. The result is complete after it; an error records nothing."""
        if self._open:
            self._pause()
        phase = Measured(self.device.type == "cuda" or self.is_counting)
        self._open.append(phase)
        self._resume()
        try:
            yield phase
        finally:
            self._pause()
            self._open.pop()
            if self._open:
                self._resume()
        before = self.peaks.get(name)
        if phase.is_counted and (before is None or phase.peak.allocated_bytes > before.allocated_bytes):
            self.peaks[name] = phase.peak
        if self.device.type != "cuda":
            self.process_bytes[name] = max(phase.process_bytes, self.process_bytes.get(name, 0))

    def _resume(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        _forget_process_peak()
        if self._open[-1].is_counted:
            self.live.peak_bytes = self.live.bytes
            self.live.__enter__()  # type: ignore[no-untyped-call]

    def _pause(self) -> None:
        phase = self._open[-1]
        if self.device.type == "cuda":
            phase.add(_device_peak(self.device))
            return
        phase.process_bytes = max(phase.process_bytes, _process_peak_bytes())
        if phase.is_counted:
            self.live.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            phase.add(Peak(self.live.peak_bytes, None, None))


@dataclass
class Measured:
    """The measurements of a phase so far, without nested phases. `peak` is 0 if the phase is not counted."""

    is_counted: bool
    peak: Peak = Peak(0, None, None)
    process_bytes: int = 0

    def add(self, peak: Peak) -> None:
        if peak.allocated_bytes >= self.peak.allocated_bytes:
            self.peak = peak


def _device_peak(device: torch.device) -> Peak:
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    reserved = torch.cuda.max_memory_reserved(device)
    return Peak(torch.cuda.max_memory_allocated(device), reserved, reserved + others)


def _forget_process_peak() -> None:
    """Reset the peak of this process. Only Linux can; elsewhere the peak is the largest so far."""
    if platform.system() == "Linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _process_peak_bytes() -> int:
    if platform.system() == "Linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the live storages on `device` that operations created while this mode was on.

    With `reads`, also of those that they read.
    """

    def __init__(self, device: torch.device, *, reads: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = device.type
        self.reads = reads
        self.bytes = 0
        self.peak_bytes = 0
        self.sizes: dict[weakref.ref[Any], int] = {}

    def count(self, tensor: Tensor) -> None:
        """Count the tensor's storage from now until it is freed; once, however many tensors share it."""
        if tensor.device.type != self.kind or tensor.is_mkldnn:  # oneDNN's own layout has no storage to count
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
        inputs = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        outputs = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        if not self.reads:
            before = {value.untyped_storage()._cdata for value in inputs if not value.is_mkldnn}
            inputs, outputs = [], [x for x in outputs if not x.is_mkldnn and x.untyped_storage()._cdata not in before]
        for value in (*inputs, *outputs):
            self.count(value)
        return out

    def _freed(self, reference: weakref.ref[Any]) -> None:
        self.bytes -= self.sizes.pop(reference)
