"""One process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvr.types import UserError


@contextmanager
def locked(folder: Path, stage: str) -> Iterator[None]:
    """Hold `folder`/`stage`.lock, which ends with the process. Raises UserError if another process runs this stage."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{stage}.lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"process {lock.read().strip()} is running {stage} in this folder: wait for it or stop it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
