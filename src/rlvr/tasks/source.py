"""Read rows from local files, or from a data set of the Hugging Face hub at one commit."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.tasks.table import READERS, TableRow, files_of, read_local
from rlvr.types import UserError

FOLLOWED = (Path("data/raw"), Path("examples/records"))  # the data that prepare depends on in dvc.yaml
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class DataSource:
    """A file, a folder, or a part of a hub data set; `key` is the section of params.yaml that names it."""

    key: str
    source: str
    subset: str | None
    split: str
    revision: str | None


def read(data: DataSource) -> tuple[list[TableRow], dict[str, Any]]:
    """The rows, and their origin for the card: commit or file hashes, and warnings. Raises UserError."""
    path = Path(data.source).expanduser()
    if path.exists() or path.suffix in READERS or not HUB_NAME.fullmatch(data.source):
        return read_local(path), describe(data.source, files_of(path))
    commit, origin = pinned(data.source, data.revision, f"{data.key}revision")
    return read_hub(data.source, data.subset, data.split, commit), origin


def describe(source: str, files: list[Path]) -> dict[str, Any]:
    """The origin of local files, for the card. It warns of files outside the folders that DVC follows."""
    hashes = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    if all(any(file.resolve().is_relative_to(folder.resolve()) for folder in FOLLOWED) for file in files):
        return {"source": source, "files": hashes, "warnings": []}
    warning = (
        f"{source} is outside data/raw, so editing it re-runs nothing, and queued experiments see only what git or "
        "DVC tracks. Copy it to data/raw and run `dvc add` on it"
    )
    return {"source": source, "files": hashes, "warnings": [warning]}


def pinned(name: str, revision: str | None, key: str) -> tuple[str, dict[str, Any]]:
    """The commit of a hub data set and its origin for the card. Without a revision, the newest one, with a warning.

    Raises UserError if the hub cannot be asked.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # noqa: PLC0415

    if revision is not None:
        return revision, {"source": name, "revision": revision, "warnings": []}
    try:
        commit = str(HfApi().dataset_info(name).sha)
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(f"{_unreadable(name)}\n{error}") from None
    warning = f"{key} is null, so the newest commit {commit} was used; write it there"
    return commit, {"source": name, "revision": commit, "warnings": [warning]}


def read_hub(name: str, subset: str | None, split: str, commit: str) -> list[TableRow]:
    """The rows of a split of a hub data set. Raises UserError."""
    from datasets import load_dataset  # noqa: PLC0415
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        rows: list[TableRow] = load_dataset(name, subset, split=split, revision=commit).to_list()
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(f"{_unreadable(name)} (subset {subset}, split {split}, revision {commit})\n{error}") from None
    return rows


def _unreadable(name: str) -> str:
    return (
        f"{name!r} is not a file or folder, and cannot be read from the hub. Check the name and the connection, "
        "or download it and give the path"
    )
