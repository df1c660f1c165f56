"""Worker processes for calls that may hang or exhaust memory: each call has a limit of time, each process of memory.

A process is a fresh interpreter (never a fork, since this process has threads) in its own session. If a call exceeds
its limit, the whole session is killed and replaced. A limit of CPU time does not depend on what else the machine does.
One thread per process supervises it and only waits for pipes. JSON lines use two separate pipes, so that the called
code may print.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, Self

from rlvr.verifiers.workers.child import MESSAGE_LENGTH, OUT_OF_MEMORY, REPLY_BYTES

LOAD_SECONDS = 120.0  # to start the interpreter and load the target's module; not part of a deadline
KILL_SECONDS = 10.0  # for a killed process to disappear
LONGEST_POLL_SECONDS = 86_400.0  # one wait; the system takes no more than 24 days
ATTEMPTS = 3  # for a call whose process dies before the call begins
CHUNK_BYTES = 2**20

SOURCE = Path(__file__).parents[3]  # the folder that holds the package

Failure = Literal["timeout", "memory", "crash", "error", "worker"]


@dataclass(frozen=True)
class Reply:
    """The JSON value that a call returned, or the reason why it returned none.

    `failure` is None, or "timeout" · "memory" · "crash" (its process died) · "error" (it raised, or its result is not
    JSON or too long) · "worker" (the process or module could not be loaded, the machine was too slow for a call with a
    limit of CPU time, or the pool was closed: not the call's fault).
    """

    value: Any
    failure: Failure | None
    message: str


class Workers:
    """`count` processes of at most `memory_bytes` of address space each (macOS does not limit it).

    Each starts when it is needed. Leaving the context kills all of them, even during a call.
    """

    def __init__(self, count: int, *, memory_bytes: int) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._closing, self._close = os.pipe()  # readable from the moment of closing
        self._threads = [
            threading.Thread(target=_supervise, args=(self._jobs, self._closing, memory_bytes), daemon=True)
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, target: str, arguments: dict[str, Any], *, seconds: float, cpu_seconds: float | None = None
    ) -> Future[Reply]:
        """Call `target` ("module:function") as function(**arguments) in a worker; the future has its Reply.

        The `seconds` count from the start of the call in the worker: waiting for a worker and loading the module are
        not included. With `cpu_seconds`, the failure "timeout" means that the worker computed for longer than that, and
        a call that is not done after `seconds` has the failure "worker".
        Raises RuntimeError after close, and TypeError or ValueError for arguments that are not JSON.
        """
        request = {"target": target, "arguments": arguments, "cpu_seconds": cpu_seconds}
        job = _Job(json.dumps(request).encode() + b"\n", target, seconds, cpu_seconds)
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the workers are closed: no more calls can be submitted")
            self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Kill all processes. Waiting calls are cancelled, running ones get the failure "worker"."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        with suppress(Empty):  # before any process ends, whose thread would take the next call
            while job := self._jobs.get_nowait():
                job.future.cancel()
        os.write(self._close, b"x")
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        os.close(self._closing)
        os.close(self._close)


@dataclass(frozen=True)
class _Job:
    line: bytes
    target: str
    seconds: float
    cpu_seconds: float | None
    future: Future[Reply] = field(default_factory=Future)


class _Process:
    """A worker process and this end of its two pipes."""

    def __init__(self, memory_bytes: int) -> None:
        requests, self.requests = os.pipe()
        self.replies, replies = os.pipe()
        # one thread each, and a fixed order of sets: a verdict depends only on the answer
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")])),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
        }
        numbers = [str(number) for number in (requests, replies, memory_bytes, os.getpid())]
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "rlvr.verifiers.workers.child", *numbers],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(requests, replies),
                start_new_session=True,
            )
        except OSError:
            os.close(self.requests)
            os.close(self.replies)
            raise
        finally:
            os.close(requests)
            os.close(replies)
        os.set_blocking(self.requests, False)
        self.is_dead = False

    def kill(self) -> int | None:
        """Kill the process and all that it started; return its exit status: negative for a signal, None if alive."""
        self.is_dead = True
        os.close(self.requests)
        os.close(self.replies)
        with suppress(ProcessLookupError, PermissionError):  # not reaped yet, so the number still belongs to it
            os.killpg(self._popen.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            return self._popen.wait(KILL_SECONDS)
        return None


def _supervise(jobs: SimpleQueue[_Job | None], closing: int, memory_bytes: int) -> None:
    """Run jobs in a process, replacing it when it dies, until the queue yields None."""
    process: _Process | None = None
    try:
        while job := jobs.get():
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                for attempt in range(1, ATTEMPTS + 1):
                    if process is None or process.is_dead:
                        process = _Process(memory_bytes)
                    reply, has_begun = _exchange(process, job, closing)
                    if has_begun or reply.failure != "crash":
                        break
                    reply = Reply(None, "worker", f"before the call began, {attempt} times: {reply.message}")
                job.future.set_result(reply)
            except OSError as error:
                job.future.set_result(Reply(None, "worker", f"a worker process could not be started: {error}"))
            except BaseException as error:
                job.future.set_exception(error)
                raise
    finally:
        if process is not None and not process.is_dead:
            process.kill()


def _exchange(process: _Process, job: _Job, closing: int) -> tuple[Reply, bool]:
    """Send the job and wait for its reply or its deadline. Kills the process if it must not be used again.

    Returns the reply, and whether the call had begun.
    """
    unsent, received, has_begun = memoryview(job.line), bytearray(), False
    deadline = time.monotonic() + LOAD_SECONDS
    poll = select.poll()
    poll.register(closing, select.POLLIN)
    poll.register(process.replies, select.POLLIN)
    poll.register(process.requests, select.POLLOUT)
    while True:
        rest_seconds = min(max(0.0, deadline - time.monotonic()), LONGEST_POLL_SECONDS)
        ready = {fd for fd, _ in poll.poll(math.ceil(1000 * rest_seconds))}
        if closing in ready:
            process.kill()
            return Reply(None, "worker", "the workers were closed"), has_begun
        if process.requests in ready:
            unsent = _send(process.requests, unsent)
            if not unsent:
                poll.unregister(process.requests)
        if process.replies in ready:
            chunk = os.read(process.replies, CHUNK_BYTES)
            received += chunk
            if not chunk:
                return _death(job, process.kill()), has_begun
            if not has_begun and received.startswith(BEGUN):
                del received[: len(BEGUN)]
                has_begun, deadline = True, time.monotonic() + job.seconds
            if received.endswith(b"\n") or len(received) > REPLY_BYTES + MESSAGE_LENGTH:
                return _reply(process, received), has_begun
        elif time.monotonic() >= deadline:
            process.kill()
            return _overdue(job, has_begun), has_begun


BEGUN = b'{"begun": true}\n'


def _send(pipe: int, unsent: memoryview) -> memoryview:
    """The rest to send. Nothing if the other end is gone, which then shows as the end of its replies."""
    try:
        return unsent[os.write(pipe, unsent[:CHUNK_BYTES]) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return unsent[:0]


def _reply(process: _Process, received: bytearray) -> Reply:
    try:
        if len(received) > REPLY_BYTES + MESSAGE_LENGTH:
            raise ValueError(f"more than {REPLY_BYTES:,} bytes")
        answer = json.loads(received)
        reply = Reply(answer.get("value"), answer.get("failure"), answer.get("message", ""))
    except (ValueError, AttributeError, RecursionError) as error:
        process.kill()
        return Reply(None, "error", f"the worker's reply cannot be read: {error}")
    if reply.failure in ("memory", "worker") or answer.get("is_spent"):
        process.kill()
    return reply


def _death(job: _Job, status: int | None) -> Reply:
    if status == -signal.SIGPROF:
        return Reply(None, "timeout", f"over its limit of {job.cpu_seconds:g} s of CPU time")
    if status == OUT_OF_MEMORY:
        return Reply(None, "memory", "over its memory limit")
    if status is None:
        return Reply(None, "crash", "the worker process closed its pipe")
    if status < 0:
        return Reply(None, "crash", f"the worker process was killed by {signal.Signals(-status).name}")
    return Reply(None, "crash", f"the worker process ended with exit status {status}")


def _overdue(job: _Job, has_begun: bool) -> Reply:
    if has_begun and job.cpu_seconds is None:
        return Reply(None, "timeout", f"over its limit of {job.seconds:g} s")
    if has_begun:
        return Reply(
            None, "worker", f"not done after {job.seconds:g} s, with less than {job.cpu_seconds:g} s of CPU time"
        )
    return Reply(None, "worker", f"{job.target} was not loaded within {LOAD_SECONDS:g} s")
