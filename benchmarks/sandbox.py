"""Fresh sandboxed executions per second with one and two callers, and what a single one consists of.

python benchmarks/sandbox.py
"""

from __future__ import annotations

import ctypes
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import IO, Any

from recipe import RESULTS, write_result
from rlvr.verifiers.sandbox import bubblewrap, seccomp
from rlvr.verifiers.sandbox import run as sandbox
from rlvr.verifiers.sandbox.run import ProgramLimits, ProgramRun, execute

LIMITS = ProgramLimits(10.0, 5.0, 2**28, 2**22, 4, 2**14)
PROGRAM = "print(int(input()) * 2)"
SECONDS = 5.0  # for each rate
CALLS = 60  # for each part
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def rate(callers: int, kind: sandbox.Kind) -> dict[str, float | int | str]:
    """Executions per second of `callers` at once; each must be right."""
    end = time.perf_counter() + SECONDS

    def calls(_: int) -> int:
        done = 0
        while time.perf_counter() < end:
            report = execute(PROGRAM, [ProgramRun("4")], limits=LIMITS, kind=kind)
            assert report.endings[0].printed == b"8\n"
            done += 1
        return done

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        total = sum(pool.map(calls, range(callers)))
    return {"kind": kind, "callers": callers, "per_second": round(total / (time.perf_counter() - started), 1)}


def cost(name: str, call: Callable[[], Any]) -> dict[str, float | str]:
    """Milliseconds of one call: the median of wall time, and the mean of CPU time, that of all it started included."""
    walls = []
    before = cpu_seconds()
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        walls.append(time.perf_counter() - started)
        reap()
    return {
        "part": name,
        "wall_milliseconds": round(statistics.median(walls) * 1000, 1),
        "cpu_milliseconds": round((cpu_seconds() - before) / CALLS * 1000, 1),
    }


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def reap() -> None:
    """Wait for processes that bubblewrap left to us, so that their time is counted."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def run(command: list[str]) -> None:
    with tempfile.TemporaryFile() as file:
        words, passed = with_filter(command, file)
        environment = bubblewrap.ENVIRONMENT | {"PATH": os.defpath}
        subprocess.run(words, check=True, cwd="/", env=environment, pass_fds=passed)


FILTER = "FILTER"  # stands for the number of the filter's file in a command


def with_filter(command: list[str], file: IO[bytes]) -> tuple[list[str], list[int]]:
    file.write(seccomp.program())
    file.seek(0)
    return [str(file.fileno()) if word == FILTER else word for word in command], [file.fileno()]


def parts() -> list[dict[str, float | str]]:
    """From the least to the whole: what each adds is the difference."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    python = [bubblewrap.interpreter(), *bubblewrap.PYTHON]
    inside = [FILTER if word == "-1" else word for word in bubblewrap.command(file_bytes=2**22, filter_descriptor=-1)]
    commands = {
        "true": ["true"],
        "bubblewrap with true": ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"],
        "python with site": [python[0], "-c", "pass"],
        "bare python": [*python, "-c", "pass"],
        "bubblewrap with bare python": [*inside, "-c", "pass"],
    }
    found = [cost(name, partial(run, command)) for name, command in commands.items()]
    whole = partial(execute, PROGRAM, [ProgramRun("4")], limits=LIMITS, kind="bubblewrap")
    return [*found, cost("a whole execution", whole)]


def main() -> None:
    sandbox.check("bubblewrap")
    execute(PROGRAM, [ProgramRun("4")], limits=LIMITS, kind="bubblewrap")
    runs: list[dict[str, float | int | str]] = []
    measured: tuple[tuple[sandbox.Kind, int], ...] = (("bubblewrap", 1), ("bubblewrap", 2), ("rlimits-only", 2))
    for kind, callers in measured:
        runs.append(rate(callers, kind))
        print(runs[-1], flush=True)
    for part in parts():
        runs.append(dict(part))
        print(part, flush=True)
    write_result(RESULTS / "sandbox.json", runs)


if __name__ == "__main__":
    main()
