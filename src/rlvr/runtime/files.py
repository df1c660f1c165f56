"""Files that a person wrote or another tool left: read as UTF-8 whatever the locale, and hashed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rlvr.types import UserError

EXPERIMENTS = "/.dvc/tmp/exps/"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte-order mark. Raises UserError naming the file and the remedy."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it with that encoding") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def file_sha256(path: Path) -> str:
    """The SHA-256 of what a file holds, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def json_sha256(value: object) -> str:
    """The SHA-256 of a value as JSON, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def why_missing() -> str:
    """The end of a message about a file that does not exist; empty outside of DVC's queue."""
    if EXPERIMENTS not in f"{Path.cwd().as_posix()}/":
        return ""
    return (
        ". This is a queued experiment, which has only the files that git or DVC tracks: run `git add` (for data "
        "`dvc add`) on it in the project and queue the experiment again"
    )


def check_pulled(path: Path) -> None:
    """Raises UserError when `path` stands for data that this clone has not downloaded: with DVC, or with Git LFS."""
    pointers = [place.with_name(f"{place.name}.dvc") for place in (path, *path.parents) if place.name]
    for pointer in (*pointers, *(path.glob("*.dvc") if path.is_dir() else ())):
        if pointer.is_file() and not (data := pointer.with_suffix("")).exists():
            raise UserError(f"{data} is kept in DVC ({pointer}) and not in this clone: run `dvc pull`")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`")
