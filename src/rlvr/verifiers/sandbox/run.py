"""Run an untrusted Python program, with limits and, through bubblewrap, without files, network or other processes.

`kind` is `bubblewrap` or `rlimits-only`. The second is for trusted programs: it limits time, memory and output, but
does not protect files, network or other processes. docs/sandbox.md lists what each protects from.
"""

from __future__ import annotations

import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from marshal import dumps
from pathlib import Path
from types import CodeType
from typing import IO, Any, Literal

from rlvr.types import UserError
from rlvr.verifiers.sandbox import bubblewrap, seccomp
from rlvr.verifiers.verdict import CRASH, MEMORY, OUTPUT, TIMEOUT, UNPARSABLE

Kind = Literal["bubblewrap", "rlimits-only"]

START_SECONDS = 10.0  # until the sandbox reports READY; longer is a fault of the sandbox
OPEN_FILES = 64
READY = b"ready\n"
# the job holds compiled code, which only the interpreter that compiled it can read
BOOTSTRAP = "import marshal;code,job=marshal.load(open(0,'rb',closefd=False));s={};exec(code,s);s['main'](job)"


@dataclass(frozen=True)
class ProgramLimits:
    """Limits of one program: `wall_seconds` for all runs together, `cpu_seconds` (rounded up) for each process.

    `memory_bytes` is the address space of each process, so together they have at most (processes + 1) times that.
    `file_bytes` limits each file and the folder, `output_bytes` the output of a run. `processes` also counts threads.
    """

    wall_seconds: float
    cpu_seconds: float
    memory_bytes: int
    file_bytes: int
    processes: int
    output_bytes: int


@dataclass(frozen=True)
class ProgramRun:
    """One run of the program: as a script that reads `stdin`, or loaded as a module for `calls` (harness.py)."""

    stdin: str = ""
    calls: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True)
class Ending:
    """The end of a run. `cause` is None if it ended by itself with status 0. `replies` has a line per answered call."""

    cause: str | None
    message: str = ""
    printed: bytes = b""
    replies: bytes = b""


@dataclass(frozen=True)
class Report:
    """Whether the source `compiles`, and the `endings` of all runs."""

    compiles: bool
    endings: tuple[Ending, ...]


class SandboxError(Exception):
    """The sandbox itself did not start."""


def execute(source: str, runs: Sequence[ProgramRun], *, limits: ProgramLimits, kind: Kind) -> Report:
    """Run the program `source` in a new sandbox, each of `runs` in a new process. Raises SandboxError.

    A run that was cut off by the wall limit or never reached gets the cause that ended the sandbox.
    """
    with tempfile.TemporaryFile() as job, tempfile.TemporaryDirectory(prefix="rlvr-") as folder:
        job.write(dumps((_harness(), _job(source, runs, limits))))
        job.seek(0)
        process = _launch(kind, limits, job, folder)
        try:
            output, cause = _listen(process, limits, num_runs=len(runs))
        finally:
            _end(process)
    if not output.startswith(READY):
        raise SandboxError(output.decode(errors="replace").strip() or f"it did not report in {START_SECONDS:g} seconds")
    return _read(output.removeprefix(READY), cause or CRASH, limits, num_runs=len(runs))


def check(kind: Kind) -> None:
    """Raise UserError unless a program can run in a sandbox of this kind here."""
    remedy = (
        "Install bubblewrap 0.8 or newer (apt-get install bubblewrap; Linux only) and allow user namespaces, or, if "
        "you trust everything the model writes, set verifiers.sandbox: rlimits-only, which protects no files or network"
    )
    if kind == "bubblewrap":
        if not sys.platform.startswith("linux"):
            raise UserError(f"verifiers.sandbox: bubblewrap does not exist on {sys.platform}. {remedy}")
        needed = ["bwrap", "setpriv"] if os.geteuid() == 0 else ["bwrap"]
        for name in needed:
            if shutil.which(name, path=os.defpath) is None:
                raise UserError(f"verifiers.sandbox: bubblewrap needs {name}, which is not installed. {remedy}")
    limits = ProgramLimits(START_SECONDS, START_SECONDS, 2**29, 2**20, 1, 2**10)
    try:
        report = execute("print('ok')", [ProgramRun()], limits=limits, kind=kind)
    except SandboxError as error:
        raise UserError(f"verifiers.sandbox: {kind} does not start here: {error}. {remedy}") from None
    ending = report.endings[0]
    if ending.printed != b"ok\n":
        raise UserError(f"verifiers.sandbox: {kind} could not run a trivial program: {ending.message}. {remedy}")


@cache
def _harness() -> CodeType:
    path = Path(__file__).with_name("harness.py")
    return compile(path.read_bytes(), "<harness>", "exec", dont_inherit=True)


def _job(source: str, runs: Sequence[ProgramRun], limits: ProgramLimits) -> dict[str, Any]:
    return {
        **asdict(limits),
        "cpu_seconds": math.ceil(limits.cpu_seconds),
        "open_files": OPEN_FILES,
        "source": source,
        "runs": [{"stdin": run.stdin.encode("utf-8", "replace"), "calls": run.calls} for run in runs],
    }


def _launch(kind: Kind, limits: ProgramLimits, job: IO[bytes], folder: str) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as filter_file:
        filter_file.write(seccomp.program())
        filter_file.seek(0)
        command = [bubblewrap.interpreter(), *bubblewrap.PYTHON]
        passed: list[int] = []
        if kind == "bubblewrap":
            passed, folder = [filter_file.fileno()], "/"
            command = bubblewrap.command(file_bytes=limits.file_bytes, filter_descriptor=passed[0])
        return subprocess.Popen(
            [*command, "-c", BOOTSTRAP],
            stdin=job,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=bubblewrap.ENVIRONMENT | {"PATH": os.defpath},
            pass_fds=passed,
            start_new_session=True,
        )


def _listen(process: subprocess.Popen[bytes], limits: ProgramLimits, *, num_runs: int) -> tuple[bytes, str | None]:
    """The output of the sandbox, and the cause for cutting it off; None if it finished."""
    assert process.stdout is not None
    most_bytes = num_runs * (2 * limits.output_bytes + 4096) + 8192
    pipe = process.stdout.fileno()
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    output, deadline, has_begun = bytearray(), time.monotonic() + START_SECONDS, False
    while True:
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return bytes(output), TIMEOUT
        data = os.read(pipe, 65536)
        output += data
        if not data:
            return bytes(output), None
        if len(output) > most_bytes:
            return bytes(output), OUTPUT
        if not has_begun and output.startswith(READY):
            deadline, has_begun = time.monotonic() + limits.wall_seconds, True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the sandbox and everything in it: the end of bubblewrap ends its first process, and so its namespace."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _read(output: bytes, cause: str, limits: ProgramLimits, *, num_runs: int) -> Report:
    """Read the report of harness.py. It may be forged, but only into something that the program could have printed."""
    first, _, output = output.partition(b"\n")
    word, _, text = first.partition(b" ")
    endings: list[Ending] = []
    if word == b"unparsable":
        return Report(False, (Ending(UNPARSABLE, _from_hex(text)),) * num_runs)
    while word == b"compiled" and len(endings) < num_runs:
        head, newline, output = output.partition(b"\n")
        try:
            status, size, *lengths = (int(number) for number in head.removeprefix(b"run ").split())
        except ValueError:
            break
        if not newline or len(lengths) != 3 or min(lengths) < 0 or sum(lengths) > len(output):
            break
        printed, errors, replies = (output[sum(lengths[:i]) : sum(lengths[: i + 1])] for i in range(3))
        output = output[sum(lengths) :]
        endings.append(_ending(status, size, printed, errors, replies, limits))
    missing = Ending(cause, {TIMEOUT: f"no end in {limits.wall_seconds:g} seconds"}.get(cause, "the sandbox ended"))
    return Report(word == b"compiled", (*endings, *[missing] * (num_runs - len(endings))))


def _ending(status: int, size: int, printed: bytes, errors: bytes, replies: bytes, limits: ProgramLimits) -> Ending:
    last = (errors.decode("utf-8", "replace").strip().splitlines() or [""])[-1][:200]
    if size > limits.output_bytes:
        return Ending(OUTPUT, f"more than {limits.output_bytes} bytes of output", printed)
    if status == 0:
        return Ending(None, "", printed, replies)
    if status == -signal.SIGXCPU:
        return Ending(TIMEOUT, f"more than {limits.cpu_seconds:g} seconds of CPU time", printed, replies)
    if last.startswith("MemoryError"):
        return Ending(MEMORY, f"more than {limits.memory_bytes} bytes of memory", printed, replies)
    return Ending(CRASH, last or f"ended with status {status}", printed, replies)


def _from_hex(text: bytes) -> str:
    try:
        return bytes.fromhex(text.decode()).decode("utf-8", "replace")
    except ValueError:
        return "no reason given"
