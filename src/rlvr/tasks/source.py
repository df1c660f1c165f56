"""Read rows from local files, or from a data set of the Hugging Face hub at one commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.runtime.files import file_sha256
from rlvr.tasks.table import READERS, TableRow, files_of, read_local, rows_of, splits_of
from rlvr.types import UserError

if TYPE_CHECKING:
    from rlvr.config import Prepare

FOLLOWED = (Path("data/raw"), Path("examples/records"))  # the data that prepare depends on in dvc.yaml
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class DataSource:
    """A file, a folder, or a part of a hub data set; `key` is the section of params.yaml that names it.

    `has_own_split` says that the user chose the split and not only kept it, so that a file without splits is refused.
    """

    key: str
    source: str
    subset: str | None
    split: str
    revision: str | None
    has_own_split: bool = False


def read(data: DataSource) -> tuple[list[TableRow], dict[str, Any]]:
    """The rows, and their origin for the card: commit or file hashes, and warnings. Raises UserError."""
    if (path := _local(data.source)) is not None:
        return _read_local(data, path)
    commit, origin = pinned(data.source, data.revision, f"{data.key}revision")
    return read_hub(data.source, data.subset, data.split, commit), origin


def check_local(prepare: Prepare) -> None:
    """Raise UserError where the data of the task should be a local file or folder that is missing."""
    records = prepare.records
    sources: dict[str, list[str | None]] = {
        "gsm8k": [prepare.gsm8k.source],
        "records": [records.source, records.evaluation_source],
    }
    for source in sources.get(prepare.task, []):
        if source is not None and (path := _local(source)) is not None:
            files_of(path)


def _local(source: str) -> Path | None:
    """The path that `source` is; None for the name of a hub data set."""
    path = Path(source).expanduser()
    is_local = path.exists() or path.suffix.lower() in READERS or not HUB_NAME.fullmatch(source)
    return path if is_local else None


def _read_local(data: DataSource, path: Path) -> tuple[list[TableRow], dict[str, Any]]:
    files = files_of(path, data.split)
    is_of_split = path.is_dir() and all(data.split in splits_of(file, path) for file in files)
    if data.has_own_split and not is_of_split:
        raise UserError(
            f"{data.key}split {data.split!r} is a split of a hub data set, or of a folder with files named for splits, "
            f"and {path} has none of that name: set it to null, and give another file as {data.key}source"
        )
    rows = read_local(path, data.split)
    origin = describe(data.source, files)
    if is_of_split and (others := sorted({*files_of(path)} - {*files})):
        names = ", ".join(str(file.relative_to(path)) for file in others)
        origin["warnings"].append(f"{data.source}: the split {data.split} is its files alone; not in it: {names}")
    if data.subset is not None:
        origin["warnings"].append(f"prepare.records.subset {data.subset!r} is for hub data sets and is not used here")
    return rows, origin


def describe(source: str, files: list[Path]) -> dict[str, Any]:
    """The origin of local files, for the card. It warns of files outside the folders that DVC follows."""
    hashes = {str(file): file_sha256(file) for file in files}
    if all(any(file.resolve().is_relative_to(folder.resolve()) for folder in FOLLOWED) for file in files):
        return {"source": source, "files": hashes, "warnings": _untracked(files)}
    warning = (
        f"{source} is outside data/raw, so editing it re-runs nothing, and queued experiments see only what git or "
        "DVC tracks. Copy it to data/raw and run `dvc add` on it"
    )
    return {"source": source, "files": hashes, "warnings": [warning]}


def _untracked(files: list[Path]) -> list[str]:
    """A warning of files in data/raw that DVC does not know, in a project that has DVC."""
    if not Path(".dvc").is_dir():
        return []
    unknown = [
        str(file)
        for file in files
        if file.resolve().is_relative_to(FOLLOWED[0].resolve())
        and not any(Path(f"{place}.dvc").is_file() for place in (file, *file.parents))
    ]
    if not unknown:
        return []
    shown = " ".join(unknown[:3]) + (" ..." if len(unknown) > 3 else "")
    return [f"DVC does not know {shown}: queued experiments will not find it. Run `dvc add {shown}`"]


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
        dataset = load_dataset(name, subset, split=split, revision=commit)
        rows = rows_of(dataset.with_format("arrow")[:])
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(f"{_unreadable(name)} (subset {subset}, split {split}, revision {commit})\n{error}") from None
    return rows


def _unreadable(name: str) -> str:
    return (
        f"{name!r} is not a file or folder, and cannot be read from the hub. Check the name and the connection, "
        "or download it and give the path"
    )
