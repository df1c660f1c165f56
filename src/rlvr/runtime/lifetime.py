"""Tie the lifetime of a process to that of its parent, and leave interrupts to the child that handles them."""

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
    """On Linux, kill this process when its parent is killed, so that no trainer is left running alone."""
    _signal_with_parent(signal.SIGKILL)


def _signal_with_parent(sent: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sent)


def in_child() -> None:
    """For `preexec_fn` within ignore_interrupts: the child dies with this process and does receive interrupts."""
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
    """Run a program that starts others, until it ends; return its exit code. None of its processes survives.

    Signals that ask this process to end are passed on, and so is the death of this process (on Linux).
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
