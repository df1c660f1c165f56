"""When a process ends: with the one that started it, and not by an interrupt that its child should handle."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """On Linux, kill this process when its parent is killed: no trainer is left running alone."""
    _signal_with_parent(signal.SIGKILL)


def _signal_with_parent(sent: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sent)


def in_child() -> None:
    """For `preexec_fn` within ignore_interrupts: the child ends with this process, and does hear interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()


@contextmanager
def ignore_interrupts() -> Iterator[None]:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def run_group(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program that starts others, until it ends; its exit code. None of its processes is left over.

    Signals that ask this process to end are passed on to it, and so is this process's own death (on Linux).
    """

    def in_leader() -> None:
        _signal_with_parent(signal.SIGTERM)

    leader = subprocess.Popen(command, env=environment, process_group=0, preexec_fn=in_leader)  # noqa: PLW1509
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = [signal.signal(number, lambda *_: leader.terminate()) for number in signals]
    try:
        return leader.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
