"""Time and peak memory per phase of a step."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rlvr.runtime.ledger import Ledger

COUNTED_STEPS = 2  # the second has optimizer states and gradients from its start


class Meter:
    """`seconds` and `peak_bytes` by phase, of the current step. The seconds of a phase in several parts add up.

    On CUDA the peak is the memory that the allocator handed out. Elsewhere it is the resident memory of the process.
    Only Linux can reset that peak between phases; on other systems a phase shows the largest peak so far. `ledger` has
    the largest peaks of the run. On a CPU, counting tensors costs time, so it covers the first two steps of this
    process, without the phases `uncounted`. The seconds of a nested phase count in both phases, its peak in its own.
    """

    def __init__(self, device: torch.device, *, uncounted: Collection[str] = ()) -> None:
        self.device = device
        self.uncounted = uncounted
        self.ledger = Ledger(device, [])
        self.steps = 0
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}

    @property
    def counts(self) -> bool:
        """Whether the ledger looks at the tensors of the current step."""
        return self.device.type == "cuda" or self.steps <= COUNTED_STEPS

    @property
    def kind(self) -> str:
        """The quantity that the peaks measure."""
        return "device memory allocated" if self.device.type == "cuda" else "process resident memory"

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that exist already, such as the weights."""
        self.ledger.count(tensors)

    def begin_step(self) -> None:
        self.steps += 1
        self.seconds.clear()
        self.peak_bytes.clear()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.ledger.is_counting = self.counts and name not in self.uncounted
        start = time.perf_counter()
        with self.ledger.phase(name) as measured:
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        peak_bytes = measured.peak.allocated_bytes if self.device.type == "cuda" else measured.process_bytes
        self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), peak_bytes)
