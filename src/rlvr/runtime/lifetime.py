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
END_SECONDS = 10  # for a program to end after it was asked to


def die_with_parent() -> None:
    """On Linux, kill this process when its parent is killed, so that no trainer is left running alone."""
    _signal_with_parent(signal.SIGKILL)


def _signal_with_parent(sent: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sent)


def end_without_parent() -> None:
    """End this process if the program that started it has ended before die_with_parent was called.

    dvc.yaml names it in RLVR_PARENT; nothing happens where that is not set.
    """
    parent = os.environ.pop("RLVR_PARENT", "")
    if parent.isdigit() and int(parent) != os.getppid():
        sys.exit("error: the program that started this stage has ended")


@contextmanager
def asked_by_parents_death() -> Iterator[None]:
    """A block in which the death of the parent sends SIGTERM (on Linux), instead of killing this process."""
    _signal_with_parent(signal.SIGTERM)
    try:
        yield
    finally:
        die_with_parent()


def is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


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
    """Run a program that starts others, until it ends; return its exit code, or minus the signal that asked it to end.

    None of its processes survives.

    Signals that ask this process to end are passed on, and so is the death of this process (on Linux). A program that
    has not ended END_SECONDS after the first of them, or at the second, is killed.
    """
    requests: list[int] = []

    def in_leader() -> None:
        _signal_with_parent(signal.SIGTERM)

    leader = subprocess.Popen(command, env=environment, process_group=0, preexec_fn=in_leader)  # noqa: PLW1509

    def pass_on(number: int, _: object) -> None:
        requests.append(number)
        if len(requests) == 1 and number != signal.SIGALRM:
            leader.terminate()
            signal.alarm(END_SECONDS)
        else:
            leader.kill()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    previous = [signal.signal(number, pass_on) for number in signals]
    try:
        code = leader.wait()
        return -requests[0] if requests and code else code  # ended as it was asked to, in whatever way
    finally:
        signal.alarm(0)
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
