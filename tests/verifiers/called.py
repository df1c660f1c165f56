"""What the tests of the pool call in its workers."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

calls: list[int] = []


def echo(value: Any) -> Any:
    return value


def where() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "torch": "torch" in sys.modules,
    }


def sleep(duration: float) -> None:
    time.sleep(duration)


def spin() -> None:
    """Endless, and holds the interpreter's lock."""
    9**9**9**9


def allocate(size_bytes: int) -> int:
    return len(bytearray(size_bytes))


def leak(size_bytes: int) -> int:
    calls.extend([0] * (size_bytes // 8))
    return os.getpid()


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(status: int) -> None:
    os._exit(status)


def system_exit() -> None:
    sys.exit(0)


def segfault() -> None:
    ctypes.string_at(0)


def fail(text: str) -> None:
    raise LookupError(text)


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def talk() -> str:
    print("x" * 100_000)
    os.write(1, b"to standard output\n")
    return "done"


def long_text(size: int) -> str:
    return "x" * size


def no_json() -> object:
    return {1, 2}


def child(path: str) -> None:
    """Start a program that would live long, note its number, and hang."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(process.pid))
    time.sleep(600)


def once(path: str, value: Any) -> Any:
    """Die in the first call of all, answer later ones."""
    if not Path(path).exists():
        Path(path).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return value
