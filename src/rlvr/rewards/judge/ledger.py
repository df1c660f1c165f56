"""The state of a judge on disk, shared by all processes: verdicts, money spent, and slots for requests.

Files are replaced as a whole and locks are the kernel's, so a process killed at any point leaves nothing half-done.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Account:
    """The account of one judge in `folder`: its cost cap, and the number of requests allowed at once."""

    folder: Path
    max_cost: float
    concurrency: int


def file_name(name: str) -> str:
    """The folder name for a reward."""
    return "judge-" + re.sub(r"[^\w.-]", "_", name)


def read(folder: Path, key: str) -> dict[str, Any] | None:
    """The verdict stored under `key`, or None."""
    try:
        verdict: dict[str, Any] = json.loads(_verdict_file(folder, key).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return verdict


def write(folder: Path, key: str, verdict: dict[str, Any]) -> None:
    _replace(_verdict_file(folder, key), verdict)


def spent(account: Account) -> float:
    try:
        return float(json.loads((account.folder / "spent.json").read_text(encoding="utf-8"))["cost"])
    except FileNotFoundError:
        return 0.0


def reserve(account: Account, cost: float) -> bool:
    """Book `cost` in advance. Returns False and books nothing if the sum would exceed the cap."""
    with _locked(account):
        total = spent(account) + cost
        if total > account.max_cost:
            return False
        _replace(account.folder / "spent.json", {"cost": total})
        return True


def correct(account: Account, difference: float) -> None:
    """Correct a reserved cost to the real one; `difference` is the real cost minus the reserved one."""
    with _locked(account):
        _replace(account.folder / "spent.json", {"cost": max(0.0, spent(account) + difference)})


@asynccontextmanager
async def slot(account: Account) -> AsyncIterator[None]:
    """Wait until fewer than `concurrency` requests run in all processes, and hold one slot during the block."""
    account.folder.mkdir(parents=True, exist_ok=True)
    while (held := _free_slot(account)) is None:
        await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        os.close(held)  # and with it the lock


def _free_slot(account: Account) -> int | None:
    for number in range(account.concurrency):
        held = os.open(account.folder / f"slot-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return held
        except BlockingIOError:
            os.close(held)
    return None


@contextmanager
def _locked(account: Account) -> Iterator[None]:
    account.folder.mkdir(parents=True, exist_ok=True)
    with (account.folder / "spent.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _verdict_file(folder: Path, key: str) -> Path:
    return folder / "verdicts" / key[:2] / f"{key[2:]}.json"


def _replace(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, suffix=".writing", delete=False, encoding="utf-8"
    ) as writing:
        json.dump(values, writing)
    Path(writing.name).replace(file)
