"""Nothing that a program started is left over, whoever ends it and how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.runtime.lifetime import run_group

# A leader that starts a child as vLLM's server starts its engine: on SIGTERM it ends it and leaves, killed it cannot.
LEADER = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def end(*_):
    child.kill(); child.wait(); sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(sys.argv[1], "w").write(str(child.pid) + " ")
time.sleep(600)
"""
RUNNER = """
import os, sys
from rlvr.runtime.lifetime import run_group
sys.exit(run_group([sys.executable, "-c", {leader!r}, sys.argv[1]], os.environ))
"""
SECONDS = 60.0


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("to_leader", [False, True])
def test_no_process_is_left_over(sent: signal.Signals, to_leader: bool, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(leader=LEADER), str(started)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    wait_until(lambda: started.exists() and started.read_text().endswith(" "), "the leader did not start")
    child = int(started.read_text())
    leader = os.getpgid(child)
    assert leader != os.getpgid(runner.pid)
    os.kill(leader if to_leader else runner.pid, sent)
    runner.wait(timeout=SECONDS)
    wait_until(lambda: not is_alive(leader) and not is_alive(child), "a process is left over")


def test_the_exit_code_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run_group([sys.executable, "-c", "import os; os._exit(int(os.environ['CODE']))"], {"CODE": "7"}) == 7
    assert signal.getsignal(signal.SIGTERM) is before
