"""Time and peak memory per phase of a step."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


class Meter:
    """`seconds` and `peak_bytes` by phase, of the current step; what a phase takes in several parts adds up.

    On CUDA the peak is what the allocator handed out. Elsewhere it is the process's resident memory; only Linux can
    reset that peak between phases, so on other systems a phase shows the largest peak so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}

    @property
    def kind(self) -> str:
        """What the peaks measure."""
        return "device memory allocated" if self.device.type == "cuda" else "process resident memory"

    def begin_step(self) -> None:
        self.seconds.clear()
        self.peak_bytes.clear()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._reset()
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), self._peak())

    def _reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif platform.system() == "Linux":
            Path("/proc/self/clear_refs").write_text("5")

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if platform.system() == "Linux":
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
