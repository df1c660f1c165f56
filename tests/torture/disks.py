"""The disk fills up in the middle of a stage: one clear error, and the same result when there is room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torture import forks
from torture.case import Case, Skipped, check_one_error, check_silent, spread
from torture.states import Chain, check

LEAST = 10
SIZE = "64m"
LEFT_BYTES = (0, 8192, 65536)  # that the disk still has, so that some files are cut off in the middle


def cases(chain: Chain, count: int) -> Iterator[Case]:
    for s, stage in enumerate(forks.STAGES):
        operations = chain.operations[stage]
        number = len(range(s, count, len(forks.STAGES)))
        for i, at in enumerate(spread(range(1, len(operations) + 1), number)):
            left = LEFT_BYTES[(i + s) % len(LEFT_BYTES)]
            what = f"{stage}: {left} bytes left from operation {at} ({operations[at - 1]})"
            yield Case(what, partial(_fill, chain, stage, at, left))


def _fill(chain: Chain, stage: str, at: int, left: int, folder: Path) -> None:
    with _disk(folder / "disk") as disk:
        here, ballast = forks.copy(chain.before[stage], disk / "run"), disk / "ballast"
        ended = forks.run(here, stage, acts={at: _filler(ballast, left)}, logs=folder)
        assert ballast.exists(), "the disk was not filled"
        check_silent(ended.text)
        if ended.code:  # after its last writes a full disk is no harm
            assert "no space left" in check_one_error(ended.text) or "free" in ended.text, ended.text
        else:
            check(here, chain.hashes, stage)
        ballast.unlink()
        chain.check_resumes(here, stage)


def _filler(ballast: Path, left: int) -> Callable[[str, Path], None]:
    def fill(operation: str, path: Path) -> None:
        disk = os.statvfs(ballast.parent)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(disk.f_bavail * disk.f_frsize - left, 1))

    return fill


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    except FileNotFoundError:
        raise Skipped("this machine has no mount") from None
    if mounted.returncode:
        raise Skipped(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
