"""The pool of worker processes: whatever a call does, it ends, and the next one is answered."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.verifiers.verify import verdict_of
from rlvr.verifiers.workers.pool import Reply, Workers

HERE = Path(__file__).parent
MEMORY_BYTES = 2**30
SLACK_SECONDS = 1.0  # over the limit of a call, on a busy machine


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        with Workers(1, memory_bytes=MEMORY_BYTES) as pool:
            yield pool


@pytest.fixture
def call(workers: Workers) -> Callable[..., Reply]:
    def call(name: str, *, seconds: float = 20.0, **arguments: Any) -> Reply:
        return workers.submit(f"called:{name}", arguments, seconds=seconds).result(60)

    return call


def processes() -> set[int]:
    """The worker processes of this process."""
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "rlvr.verifiers.workers.child"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {int(number) for number in found.stdout.split()}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int) -> bool:
    """Whether a process is gone within ten seconds."""
    end = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


@pytest.mark.parametrize(
    "value",
    [None, [], {"a": [1, 2.5, True, "é\n"]}, "\ud800 lone", "\0", 10**3000, "x" * 10_000_000, "é" * 1_000_000],
    ids=["none", "list", "nested", "surrogate", "null byte", "huge integer", "10 MB", "not ascii"],
)
def test_values_arrive_as_they_are(call: Callable[..., Reply], value: Any) -> None:
    assert call("echo", value=value) == Reply(value, None, "")


def test_nan_and_infinity_arrive(call: Callable[..., Reply]) -> None:
    found = call("echo", value=[math.nan, math.inf]).value
    assert math.isnan(found[0]) and found[1] == math.inf


def test_a_worker_is_a_fresh_interpreter_in_its_own_session(call: Callable[..., Reply]) -> None:
    found = call("where").value
    assert found["pid"] != os.getpid() and found["session"] == found["pid"]
    assert found["core"] == 0 and not found["torch"]


@pytest.mark.parametrize(
    ("name", "arguments", "failure", "message"),
    [
        ("allocate", {"size_bytes": 2 * MEMORY_BYTES}, "memory", "memory limit"),
        ("die", {"number": signal.SIGTERM}, "crash", "SIGTERM"),
        ("leave", {"status": 3}, "crash", "exit status 3"),
        ("segfault", {}, "crash", "SIGSEGV"),
        ("system_exit", {}, "error", "SystemExit"),
        ("fail", {"text": "no key"}, "error", "LookupError: no key (called.py, line"),
        ("fail", {"text": "y" * 10_000_000}, "error", "yyy"),
        ("recurse", {}, "error", "RecursionError"),
        ("no_json", {}, "error", "set"),
        ("long_text", {"size": 20_000_000}, "error", "16,777,216"),
        ("sleep", {"second": 1}, "error", "unexpected keyword"),
        ("no_such_function", {}, "worker", "no_such_function"),
    ],
)
def test_failures_say_what_happened(
    call: Callable[..., Reply], name: str, arguments: dict[str, Any], failure: str, message: str
) -> None:
    reply = call(name, **arguments)
    assert (reply.value, reply.failure) == (None, failure)
    assert message in reply.message and len(reply.message) < 5000
    assert call("echo", value="next") == Reply("next", None, "")


@pytest.mark.parametrize(("name", "arguments"), [("sleep", {"duration": 60}), ("spin", {})])
def test_a_deadline_ends_the_call(call: Callable[..., Reply], name: str, arguments: dict[str, Any]) -> None:
    call("echo", value="the module is loaded")
    started = time.monotonic()
    assert call(name, seconds=0.5, **arguments) == Reply(None, "timeout", "over its limit of 0.5 s")
    assert 0.5 <= time.monotonic() - started < 0.5 + SLACK_SECONDS
    assert call("echo", value="next").value == "next"


@pytest.mark.parametrize("seconds", [1e7, 1e308, math.inf])
def test_a_deadline_may_be_far_away(call: Callable[..., Reply], seconds: float) -> None:
    assert call("echo", seconds=seconds, value=1) == Reply(1, None, "")


def test_a_limit_of_cpu_time_counts_what_the_call_computes(workers: Workers) -> None:
    workers.submit("called:echo", {"value": "the module is loaded"}, seconds=20.0).result(60)
    reply = workers.submit("called:spin", {}, seconds=60.0, cpu_seconds=0.3).result(60)
    assert reply == Reply(None, "timeout", "over its limit of 0.3 s of CPU time")
    waiting = workers.submit("called:sleep", {"duration": 1.0}, seconds=60.0, cpu_seconds=0.3).result(60)
    assert waiting.failure is None
    after = workers.submit("called:sleep", {"duration": 1.0}, seconds=60.0).result(60)
    assert after.failure is None, "the limit of a call ends with it"


def test_a_call_that_the_machine_holds_up_is_our_fault(workers: Workers) -> None:
    reply = workers.submit("called:sleep", {"duration": 60}, seconds=0.5, cpu_seconds=5.0).result(60)
    assert (reply.failure, reply.message) == ("worker", "not done after 0.5 s, with less than 5 s of CPU time")
    assert verdict_of(reply).is_fault


def test_loading_a_module_does_not_count(workers: Workers) -> None:
    assert workers.submit("slow_module:answer", {}, seconds=1.0).result(60) == Reply(42, None, "")


def test_a_module_that_is_never_loaded_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setattr("rlvr.verifiers.workers.pool.LOAD_SECONDS", 1.0)
    with Workers(1, memory_bytes=MEMORY_BYTES) as pool:
        reply = pool.submit("slow_module:answer", {}, seconds=20.0).result(60)
        assert reply == Reply(None, "worker", "slow_module:answer was not loaded within 1 s")


def test_waiting_for_a_worker_does_not_count(workers: Workers) -> None:
    futures = [workers.submit("called:sleep", {"duration": 0.3}, seconds=1.0) for _ in range(6)]
    assert all(future.result(60).failure is None for future in futures)


@pytest.mark.parametrize("target", ["broken_module:answer", "no_such_module:answer", "called"])
def test_what_cannot_be_loaded_is_our_fault(workers: Workers, target: str) -> None:
    reply = workers.submit(target, {}, seconds=5.0).result(60)
    assert reply.failure == "worker" and f"could not load {target}" in reply.message
    assert verdict_of(reply).is_fault


def test_too_little_memory_for_the_module_is_our_fault() -> None:
    with Workers(1, memory_bytes=40 * 2**20) as pool:
        reply = pool.submit("rlvr.verifiers.mathematics:verify", {"answer": "1", "gold": "1"}, seconds=5.0).result(60)
        assert verdict_of(reply).is_fault and "could not load rlvr.verifiers.mathematics:verify" in reply.message


def test_a_call_that_had_not_begun_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: Workers
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("DYING_MODULE", str(tmp_path / "mark"))
    with Workers(1, memory_bytes=MEMORY_BYTES) as pool:
        assert pool.submit("dying_module:answer", {}, seconds=5.0).result(60) == Reply(42, None, "")
    monkeypatch.delenv("DYING_MODULE")
    with Workers(1, memory_bytes=MEMORY_BYTES) as pool:
        reply = pool.submit("dying_module:answer", {}, seconds=5.0).result(60)
        assert reply.failure == "worker" and "SIGKILL" in reply.message and "3 times" in reply.message


def test_a_call_that_was_running_is_not_tried_again(call: Callable[..., Reply], tmp_path: Path) -> None:
    assert call("once", path=str(tmp_path / "mark"), value=1).failure == "crash"
    assert call("once", path=str(tmp_path / "mark"), value=1).value == 1


def test_an_idle_worker_that_died_costs_nothing(call: Callable[..., Reply]) -> None:
    pid = call("where").value["pid"]
    os.kill(pid, signal.SIGKILL)
    assert call("where").value["pid"] != pid


def test_a_full_worker_is_replaced_before_it_fails(call: Callable[..., Reply]) -> None:
    pids = [call("leak", size_bytes=MEMORY_BYTES // 8) for _ in range(10)]
    assert all(reply.failure is None for reply in pids)
    assert 2 <= len({reply.value for reply in pids}) < 10


def test_what_a_call_prints_goes_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from rlvr.verifiers.workers.pool import Workers\n"
        "with Workers(1, memory_bytes=2**30) as pool:\n"
        "    print(pool.submit('called:talk', {}, seconds=20.0).result().value)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, check=True)
    assert found.stdout == b"done\n" and b"to standard output" in found.stderr


def test_what_a_call_started_ends_with_it(call: Callable[..., Reply], tmp_path: Path) -> None:
    note = tmp_path / "pid"
    assert call("child", path=str(note), seconds=2.0).failure == "timeout"
    assert ends(int(note.read_text()))


def test_two_workers_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    with Workers(2, memory_bytes=MEMORY_BYTES) as pool:
        slow = pool.submit("called:sleep", {"duration": 30}, seconds=60.0)
        replies = [pool.submit("called:echo", {"value": i}, seconds=20.0) for i in range(20)]
        assert [future.result(30).value for future in replies] == list(range(20))
        assert not slow.done() and len(processes()) >= 2


@settings(max_examples=5)
@given(st.lists(st.sampled_from(["echo", "echo", "echo", "leave", "fail", "sleep"]), min_size=5, max_size=25))
def test_every_call_gets_its_own_reply(names: list[str]) -> None:
    arguments: dict[str, dict[str, Any]] = {"leave": {"status": 1}, "fail": {"text": "x"}, "sleep": {"duration": 60}}
    failures = {"echo": None, "leave": "crash", "fail": "error", "sleep": "timeout"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        with Workers(2, memory_bytes=MEMORY_BYTES) as pool:
            futures = [
                pool.submit(
                    f"called:{name}", arguments.get(name, {"value": i}), seconds=0.2 if name == "sleep" else 20.0
                )
                for i, name in enumerate(names)
            ]
            replies = [future.result(60) for future in futures]
    assert [reply.failure for reply in replies] == [failures[name] for name in names]
    assert [reply.value for reply in replies] == [i if name == "echo" else None for i, name in enumerate(names)]


def test_nothing_starts_before_the_first_call() -> None:
    before = processes()
    with Workers(3, memory_bytes=MEMORY_BYTES):
        assert processes() == before


def test_closing_ends_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    before = processes()
    pool = Workers(2, memory_bytes=MEMORY_BYTES)
    pool.submit("called:echo", {"value": 0}, seconds=20.0).result(60)
    futures = [pool.submit("called:sleep", {"duration": 600}, seconds=600.0) for _ in range(5)]
    while sum(future.running() for future in futures) < 2:
        time.sleep(0.01)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5 and processes() <= before
    outcomes = ["cancelled" if future.cancelled() else future.result(0).failure for future in futures]
    assert sorted(map(str, outcomes)) == ["cancelled"] * 3 + ["worker"] * 2
    with pytest.raises(CancelledError):
        next(future for future in futures if future.cancelled()).result(0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("called:echo", {"value": 0}, seconds=1.0)
    pool.close()


def test_a_cancelled_call_is_not_run(workers: Workers, tmp_path: Path) -> None:
    busy = workers.submit("called:sleep", {"duration": 1.0}, seconds=20.0)
    waiting = workers.submit("called:once", {"path": str(tmp_path / "mark"), "value": 1}, seconds=20.0)
    assert waiting.cancel()
    assert busy.result(60).failure is None and workers.submit("called:echo", {"value": 1}, seconds=20.0).result(60)
    assert not (tmp_path / "mark").exists()


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent / "src")])}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_parent_leaves_no_process() -> None:
    program = (
        "import time\n"
        "from rlvr.verifiers.workers.pool import Workers\n"
        "pool = Workers(2, memory_bytes=2**30)\n"
        "print(pool.submit('called:where', {}, seconds=20.0).result().value['pid'], flush=True)\n"
        "pool.submit('called:spin', {}, seconds=600.0)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        time.sleep(0.3)
        assert is_alive(pid)
        run.kill()
    assert ends(pid)


def test_a_deadline_holds_while_torch_computes(call: Callable[..., Reply]) -> None:
    call("echo", value="the module is loaded")
    stop, matrix = threading.Event(), torch.randn(700, 700)

    def compute() -> None:
        while not stop.is_set():
            matrix @ matrix

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        started = time.monotonic()
        reply = call("spin", seconds=0.5)
        assert reply.failure == "timeout" and time.monotonic() - started < 0.5 + SLACK_SECONDS
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("reply", "outcome", "cause"),
    [
        (Reply({"outcome": "right", "cause": None, "message": "", "details": {}}, None, ""), "right", None),
        (Reply(None, "timeout", "m"), "wrong", "timeout"),
        (Reply(None, "memory", "m"), "wrong", "memory"),
        (Reply(None, "crash", "m"), "wrong", "crash"),
        (Reply(None, "error", "m"), "wrong", "crash"),
        (Reply(None, "worker", "m"), "fault", "worker"),
    ],
)
def test_the_verdict_in_a_reply(reply: Reply, outcome: str, cause: str | None) -> None:
    found = verdict_of(reply)
    assert (found.outcome, found.cause, found.message) == (outcome, cause, reply.message)
