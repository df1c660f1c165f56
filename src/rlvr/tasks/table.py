"""Read the rows of a table from a local file: JSONL, JSON, CSV, Parquet or Arrow."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlvr.runtime.bounds import bounded, free_memory
from rlvr.runtime.files import check_pulled, why_missing
from rlvr.tasks.csv_table import read_csv
from rlvr.types import UserError

TableRow = dict[str, Any]
ABOUT = re.compile(r"(dataset_infos?|dataset_dict|state)\.json|cache-.*\.arrow")  # what libraries leave next to tables
FIRST = 4096  # bytes that tell another encoding
KINDS = ".jsonl, .json, .csv, .parquet"  # the main ones, for messages
SPLITS = ("train", "training", "test", "validation", "valid", "val", "dev", "eval", "evaluation")
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
OTHERS = (  # what begins like this, whatever its name: what it is, and the remedy
    (b"PK\3\4", "an Excel sheet or a zip file, whatever its name: save the sheet as CSV UTF-8, or unpack the file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel sheet, whatever its name: save it as CSV UTF-8"),
    (b"\x1f\x8b", "compressed with gzip, whatever its name: unpack it (gzip -d, after adding .gz to the name)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd, whatever its name: unpack it"),
    (b"PAR1\x15", "a Parquet file, whatever its name: name it .parquet"),
)
REMEDIES = {
    ".xlsx": ": save the sheet as CSV UTF-8",
    ".xls": ": save the sheet as CSV UTF-8",
    ".ods": ": save the sheet as CSV UTF-8",
    ".gz": ": unpack it",
    ".zip": ": unpack it",
    ".zst": ": unpack it",
}


def read_local(path: Path, split: str | None = None, *, row: str = "question with its answer") -> list[TableRow]:
    """The rows of a file, or of the files of a folder, see files_of.

    Raises UserError, naming file and line, for a file that is missing, empty, of another kind, not UTF-8 or malformed,
    and for one whose rows need more than half of the memory that is free. `row` is what each should hold.
    """
    room = free_memory() // 2
    try:
        with bounded(num_bytes=room):
            rows = [row for file in files_of(path, split) for row in READERS[file.suffix.lower()](file)]
    except MemoryError:
        raise UserError(
            f"{path} needs more than {room / 2**30:.1f} GiB of memory to read, half of what is free: split it into "
            "parts, keep the rows and columns that are used, or end what else uses the memory"
        ) from None
    if not rows:
        raise UserError(f"{path} holds no rows: write one {row} per row")
    return rows


def files_of(path: Path, split: str | None = None) -> list[Path]:
    """The table at `path`, or the tables in that folder, else in the folders below it, in the order of their names.

    In a folder with files named for splits (train.csv, data/test-00000-of-00002.parquet, test/...), those of `split`.
    Hidden files and what libraries leave next to tables are passed over. Raises UserError if there is none.
    """
    check_pulled(path)
    if not path.exists():
        raise UserError(
            f"{path} does not exist: give a file ({KINDS}), a folder of such files, or a hub name owner/name"
            + why_missing()
        )
    if not path.is_dir():
        if path.suffix.lower() not in READERS:
            remedy = REMEDIES.get(path.suffix.lower(), "")
            raise UserError(f"{path}: cannot read files of kind {path.suffix!r}; use one of {KINDS}{remedy}")
        return [path]
    files = [file for file in sorted(path.rglob("*")) if _is_table(file, path)]
    files = [file for file in files if file.parent == path] or files
    if not files:
        raise UserError(f"the folder {path} holds no table ({KINDS})")
    for file in files:
        check_pulled(file)
    named = [file for file in files if split is not None and split in splits_of(file, path)]
    others = sorted({name for file in files for name in splits_of(file, path)} & set(SPLITS))
    if split is not None and not named and others:
        raise UserError(f"the folder {path} has no files of the split {split!r}; it has those of {', '.join(others)}")
    return named or files


def splits_of(file: Path, folder: Path) -> set[str]:
    """What the names of a file and of its folders say of its split: train for train-00000-of-00002.parquet."""
    within = file.relative_to(folder)
    stem = re.sub(r"[-_.]\d+([-_]of[-_]\d+)?$", "", within.stem)
    return {stem, stem.rpartition("-")[2], *within.parent.parts}


def _is_table(file: Path, folder: Path) -> bool:
    names = file.relative_to(folder).parts
    is_hidden = any(name.startswith((".", "~$")) for name in names)
    return file.suffix.lower() in READERS and not is_hidden and not ABOUT.fullmatch(file.name) and file.is_file()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(FIRST)
            if kind := next((kind for mark, kind in OTHERS if start.startswith(mark)), None):
                raise UserError(f"{path} is {kind}")
            encoding = next((name for mark, name in MARKS if start.startswith(mark)), "utf-8-sig")
            if encoding == "utf-8-sig" and b"\0" in start:
                raise UserError(f"{path} holds null characters, as UTF-16 without its mark does: save it as UTF-8")
            data = start + file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not {encoding.removesuffix('-sig').upper()} (byte {error.start}): save it as UTF-8 (in a "
            "spreadsheet: CSV UTF-8)"
        ) from None
    return text


def _jsonl(path: Path) -> list[TableRow]:
    lines = _text(path).split("\n")
    return [_object(line, f"{path} line {i}") for i, line in enumerate(lines, start=1) if line.strip()]


def _json(path: Path) -> list[TableRow]:
    text = _text(path)
    try:
        rows = json.loads(text or "[]")
    except json.JSONDecodeError as error:
        remedy = "; for one object per line, name the file .jsonl" if text.lstrip().startswith("{") else ""
        raise UserError(f"{path} line {error.lineno}: not valid JSON ({error.msg}){remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON here ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path} must be a list of objects, one per question; for one object per line, name the file .jsonl"
        )
    _check_characters(text, rows, str(path))
    return rows


def _object(line: str, place: str) -> TableRow:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not valid JSON ({error.msg}); write one object per line") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON here ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f'{place}: must be an object such as {{"question": ..., "answer": ...}}, found {line[:60]}')
    _check_characters(line, row, place)
    return row


def _check_characters(text: str, value: Any, place: str) -> None:
    """Raises UserError for half of a character, which JSON can write and no other file can hold."""
    try:
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise UserError(f"{place}: holds {half}, half of a character: write the text again without it") from None


def _csv(path: Path) -> list[TableRow]:
    return [dict(row) for row in read_csv(_text(path), path)]


def _parquet(path: Path) -> list[TableRow]:
    import pyarrow  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        rows = rows_of(parquet.read_table(path))
    except pyarrow.ArrowMemoryError:
        raise
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from None
    return rows


def _arrow(path: Path) -> list[TableRow]:
    """A table of a saved data set (a stream), or a file of Arrow's own."""
    import pyarrow  # noqa: PLC0415

    for opened in (pyarrow.ipc.open_stream, pyarrow.ipc.open_file):
        try:
            with pyarrow.memory_map(str(path)) as source:
                rows = rows_of(opened(source).read_all())
        except pyarrow.ArrowMemoryError:
            raise
        except (OSError, pyarrow.ArrowException):
            continue
        return rows
    raise UserError(f"{path} is not an Arrow file that can be read: save the data set again, or as Parquet")


def rows_of(table: Any) -> list[TableRow]:
    """The rows of an Arrow table. A number of fewer than 64 bits has its shortest text: 8.1, not 8.100000381469727."""
    rows: list[TableRow] = table.to_pylist()
    for column in table.schema:
        if (shortest := _shortest(column.type)) is not None:
            for row in rows:
                row[column.name] = shortest(row[column.name])
    return rows


def _shortest(kind: Any) -> Callable[[Any], Any] | None:
    """What makes values of an Arrow type shortest, within lists and structures, too; None if nothing does."""
    from pyarrow import types  # noqa: PLC0415

    if types.is_float16(kind) or types.is_float32(kind):
        number = kind.to_pandas_dtype()
        return lambda value: None if value is None else float(str(number(value)))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = _shortest(kind.value_type)
        return item and (lambda values: None if values is None else [item(value) for value in values])
    if types.is_struct(kind):
        parts = {part.name: each for part in kind if (each := _shortest(part.type)) is not None}
        if not parts:
            return None
        return lambda values: (
            values and {name: parts[name](value) if name in parts else value for name, value in values.items()}
        )
    return None


READERS: dict[str, Callable[[Path], list[TableRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".ndjson": _jsonl,
    ".tsv": _csv,
}
