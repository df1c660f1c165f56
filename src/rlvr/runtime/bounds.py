"""Bounds on time and memory for a block that reads what somebody else made: a chat template, a table."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

SIZE = Path("/proc/self/statm")
LIMIT, USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")  # of a container


class TooLong(Exception):
    """A block was stopped at its deadline."""


@contextmanager
def bounded(*, seconds: float | None = None, num_bytes: int | None = None) -> Iterator[None]:
    """A block that may take `seconds` and `num_bytes` of memory more than there are in use now; None: no bound.

    Raises TooLong at the deadline, which only the main thread can hear; over the memory an allocation fails, as a rule
    with MemoryError. Memory is bounded where the system tells the size of a process (Linux). A timer that was set
    before continues afterwards.
    """
    with _deadline(seconds), _memory(num_bytes):
        yield


def free_memory() -> int:
    """Bytes that this process could still take: what the machine has free, or what its container is allowed."""
    free: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        free = min(free, int(LIMIT.read_bytes()) - int(USED.read_bytes()))
    return max(free, 0)


def total_memory() -> int:
    """Bytes of memory of this machine, or of its container."""
    total: int = psutil.virtual_memory().total
    with suppress(OSError, ValueError):
        total = min(total, int(LIMIT.read_bytes()))
    return total


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooLong(f"it was stopped after {seconds:g} seconds")

    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


@contextmanager
def _memory(num_bytes: int | None) -> Iterator[None]:
    if num_bytes is None or not SIZE.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(SIZE.read_text(encoding="utf-8").split()[0]) * resource.getpagesize() + num_bytes
    bounds = [limit, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
