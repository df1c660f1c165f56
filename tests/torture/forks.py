"""Run a command of rlvr in a forked child, which has torch loaded, and do something at a file operation of it.

An operation is one that writes below the folder of the run. Python reports it to an audit hook; writers in C++ and Rust
are wrapped, and count twice: before they write, and after it, when a kill leaves half of the file.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")
NATIVE, HALF = "native write", "half of a native write"
NATIVE_WRITERS = (("torch", "save"), ("safetensors.torch", "serialize_file"), ("pandas:DataFrame", "to_parquet"))
STAGES = ("prepare", "sft", "grpo", "evaluate", "report")
SECONDS = 300.0  # for a command of seconds

Act = Callable[[str, Path], None]  # is given the operation and its path


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (minus the signal), what it printed, its operations in order."""

    code: int
    text: str
    operations: list[str]


def warm() -> None:
    """Load what the stages load, once, and compute nothing: threads do not survive a fork."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    importlib.import_module("rlvr.runtime.machine").bound_memory()
    for name in ("rlvr.cli", "matplotlib.pyplot", "pyarrow.parquet", "peft", *(f"rlvr.stages.{s}" for s in STAGES)):
        importlib.import_module(name)
    importlib.import_module("transformers.models.llama.modeling_llama")
    code = vars(importlib.import_module("rlvr.stages.code"))
    code["reached"] = cache(code["reached"])  # a walk over all syntax trees; what they lead to is hashed each time
    for stage in STAGES:
        code["code_hash"](stage)


def run(
    folder: Path,
    *command: str,
    acts: Mapping[int, Act] | None = None,
    source: Path | None = None,
    logs: Path | None = None,
) -> Ended:
    """`python -m rlvr *command` in `folder`, with acts[k] done before operation k.

    The source that it hashes is `source`; what it prints is kept in `logs`, or next to `folder`.
    """
    stem = (logs or folder.parent) / f"{folder.name}-{time.monotonic_ns()}"
    output, operations = stem.with_suffix(".out"), stem.with_suffix(".operations")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(folder, command, acts or {}, output, operations, source)
    code = _wait(child)
    lines = operations.read_text(encoding="utf-8").splitlines()
    return Ended(code, output.read_text(encoding="utf-8", errors="replace"), lines)


def die(operation: str, path: Path) -> None:
    """SIGKILL to this process."""
    if operation == HALF:
        os.truncate(path, path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to, symlinks=True))


def _wait(child: int) -> int:
    end = time.monotonic() + SECONDS
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _child(
    folder: Path, command: tuple[str, ...], acts: Mapping[int, Act], output: Path, operations: Path, source: Path | None
) -> NoReturn:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1), 2)
        os.chdir(folder)
        sys.argv = ["rlvr", *command]
        if source:
            vars(importlib.import_module("rlvr"))["__file__"] = str(source / "rlvr/__init__.py")
        for owner, name in NATIVE_WRITERS:
            _wrap(pkgutil.resolve_name(owner), name)
        sys.addaudithook(_hook(folder, acts, os.open(operations, os.O_WRONLY | os.O_CREAT)))
        runpy.run_module("rlvr", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wrap(owner: Any, name: str) -> None:
    """Report what a writer in another language does to the file that is its second argument."""
    real = getattr(owner, name)

    def watched(first: Any, path: Any = None, *args: Any, **kwargs: Any) -> Any:
        if path is None:  # into memory
            return real(first, *args, **kwargs)
        sys.audit(NATIVE, path)
        value = real(first, path, *args, **kwargs)
        sys.audit(HALF, path)
        return value

    setattr(owner, name, watched)


def _hook(folder: Path, acts: Mapping[int, Act], log: int) -> Callable[[str, tuple[Any, ...]], None]:
    count, is_acting = 0, False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, is_acting
        if is_acting or not _writes(event, arguments):
            return
        path = Path(os.path.abspath(os.fsdecode(arguments[0])))  # noqa: PTH100  (resolve would follow links)
        if path.is_relative_to(folder):
            count, is_acting = count + 1, True
            os.write(log, f"{event} {path.relative_to(folder)}\n".encode())
            if act := acts.get(count):
                act(event, path)
            is_acting = False

    return hook


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return not isinstance(arguments[0], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in (*WRITES, NATIVE, HALF)
