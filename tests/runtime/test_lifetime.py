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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_stage_that_starts_after_its_engine_is_gone_ends(tmp_path: Path) -> None:
    """The child of a process that has ended: RLVR_PARENT names that one."""
    program = (
        "import os, subprocess, sys\n"
        'code = \'import time; time.sleep(1)\\nimport runpy, sys; sys.argv = ["rlvr", "check"]; '
        'runpy.run_module("rlvr", run_name="__main__")\'\n'
        "subprocess.Popen([sys.executable, '-c', code], env=os.environ | {'RLVR_PARENT': str(os.getpid())})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        timeout=SECONDS,
    )
    assert "the program that started this stage has ended" in done.stderr


# A leader that is deaf to SIGTERM, as a server is while it loads a model.
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid) + " ")
time.sleep(600)
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_a_program_that_does_not_listen_is_killed(signals: int, tmp_path: Path) -> None:
    """After the first signal and its time, or at once at the second."""
    started = tmp_path / "pid"
    runner = RUNNER.replace("from rlvr", "import rlvr.runtime.lifetime as lifetime\nfrom rlvr", 1)
    runner = runner.replace("sys.exit(", f"lifetime.END_SECONDS = {1 if signals == 1 else 500}\nsys.exit(", 1)
    running = subprocess.Popen(
        [sys.executable, "-c", runner.format(leader=DEAF), str(started)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    wait_until(lambda: started.exists() and started.read_text().endswith(" "), "the leader did not start")
    child = int(started.read_text())
    leader = os.getpgid(child)
    for _ in range(signals):
        running.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    running.wait(timeout=SECONDS)
    wait_until(lambda: not is_alive(leader) and not is_alive(child), "a process is left over")


@pytest.mark.parametrize(("before", "stops"), [(signal.SIG_IGN, False), (signal.SIG_DFL, True)])
def test_a_hangup_that_nohup_ignores_stays_ignored(before: signal.Handlers, stops: bool) -> None:
    """Where it is heard, output goes nowhere from then on: hence a process of its own."""
    program = (
        "import os, signal\nfrom rlvr.runtime.interrupt import stop_requested\n"
        f"signal.signal(signal.SIGHUP, {int(before)})\n"
        "with stop_requested() as stop:\n    os.kill(os.getpid(), signal.SIGHUP)\n    os._exit(int(stop()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        check=False,
    )
    assert done.returncode == int(stops)
