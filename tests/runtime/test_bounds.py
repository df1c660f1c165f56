"""A block that takes too long or too much memory is stopped, and leaves everything as it was."""

from __future__ import annotations

import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from rlvr.plan.cards import this_host
from rlvr.runtime import bounds
from rlvr.runtime.bounds import TooLong, bounded, free_memory, total_memory


def test_a_block_is_stopped_at_its_deadline() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TooLong), bounded(seconds=0.05):
        while True:
            pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_timer_that_ran_before_continues() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with bounded(seconds=5.0):
            pass
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.2
        while not heard:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_thread_has_no_deadline_and_no_error() -> None:
    done: list[bool] = []

    def work() -> None:
        with bounded(seconds=0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


@pytest.mark.skipif(not bounds.SIZE.exists(), reason="the system does not tell the size of a process")
def test_memory_is_bounded_in_the_block_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with bounded(num_bytes=2**29):
        assert len(bytearray(2**27)) == 2**27
        with pytest.raises(MemoryError):
            bytearray(2**30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(2**30)) == 2**30


@pytest.mark.parametrize(
    ("limit", "used", "free"), [("3000", "1000", 2000), ("1000", "3000", 0), ("max", "1", None), ("", "1", None)]
)
def test_a_container_may_use_less_than_the_machine_has(
    limit: str, used: str, free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LIMIT", limit), ("USED", used)):
        (tmp_path / name).write_text(f"{value}\n")
        monkeypatch.setattr(bounds, name, tmp_path / name)
    assert free_memory() == free if free is not None else free_memory() > 2**20
    assert total_memory() == int(limit) if free is not None else total_memory() > 2**20
    assert this_host().memory_bytes == total_memory()
