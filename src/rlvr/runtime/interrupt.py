"""Make a signal to end request a stop at the next safe point instead of breaking a step."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rlvr.runtime.lifetime import asked_by_parents_death, is_ignored

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 120  # for a trainer whose engine is gone, to end its step and save


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a first signal came, from a person, a system or the death of the engine.

    A second Ctrl-C raises KeyboardInterrupt at once. Other signals come in numbers: one to the group, one for each
    parent that ends. A SIGHUP that is ignored, as under nohup, stays ignored.
    """
    received, parent = False, os.getppid()

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if os.getppid() != parent:
            signal.alarm(GRACE_SECONDS)  # without a handler: it ends this process
        with suppress(OSError, ValueError):  # a stream without a descriptor
            if number == signal.SIGHUP or not _is_read(sys.stdout.fileno()):
                _print_nowhere()
        if not received:
            received = True
            print("stopping after this step (Ctrl-C again: stop at once)", flush=True)

    heard = [number for number in SIGNALS if number != signal.SIGHUP or not is_ignored(number)]
    previous = {number: signal.signal(number, note) for number in heard}
    try:
        with asked_by_parents_death():
            yield lambda: received
    finally:
        signal.alarm(0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_read(descriptor: int) -> bool:
    """Whether somebody still reads what is written there."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _print_nowhere() -> None:
    """So that a line of progress, which nobody can read, does not fail the step."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
