"""Read the rows of a table from a local file: JSONL, JSON, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlvr.types import UserError

TableRow = dict[str, Any]


def read_local(path: Path) -> list[TableRow]:
    """The rows of a file, or of all files of a folder in the order of their names.

    Raises UserError, naming file and line, for a file that is missing, empty, of another kind, not UTF-8 or malformed.
    """
    rows = [row for file in files_of(path) for row in READERS[file.suffix](file)]
    if not rows:
        raise UserError(f"{path} holds no rows: write one question with its answer per row")
    return rows


def files_of(path: Path) -> list[Path]:
    """The table at `path`, or the tables in that folder. Raises UserError if there is none."""
    kinds = ", ".join(READERS)
    if not path.exists():
        raise UserError(
            f"{path} does not exist: give a file ({kinds}), a folder of such files, or a hub name owner/name"
        )
    files = sorted(file for file in path.iterdir() if file.suffix in READERS) if path.is_dir() else [path]
    if not files:
        raise UserError(f"the folder {path} holds no table ({kinds})")
    if files[0].suffix not in READERS:
        raise UserError(f"{path}: cannot read files of kind {path.suffix!r}; use one of {kinds}")
    return files


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None


def _jsonl(path: Path) -> list[TableRow]:
    lines = _text(path).split("\n")
    return [_object(line, f"{path} line {i}") for i, line in enumerate(lines, start=1) if line.strip()]


def _json(path: Path) -> list[TableRow]:
    try:
        rows = json.loads(_text(path) or "[]")
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not valid JSON ({error.msg})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path} must be a list of objects, one per question; for one object per line, name the file .jsonl"
        )
    return rows


def _object(line: str, place: str) -> TableRow:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not valid JSON ({error.msg}); write one object per line") from None
    if not isinstance(row, dict):
        raise UserError(f'{place}: must be an object such as {{"question": ..., "answer": ...}}, found {line[:60]}')
    return row


def _csv(path: Path) -> list[TableRow]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        head = next(reader, [])
        if len(set(head)) < len(head):
            raise UserError(f"{path}: the header names a column twice: {', '.join(head)}")
        rows = []
        for fields in reader:
            if fields and len(fields) != len(head):
                raise UserError(
                    f"{path} line {reader.line_num}: {len(fields)} values for {len(head)} columns: "
                    'put values that hold a comma or a line break in "quotes"'
                )
            rows += [dict(zip(head, fields, strict=True))] if fields else []
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not valid CSV ({error})") from None
    return rows


def _parquet(path: Path) -> list[TableRow]:
    import pyarrow  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        rows: list[TableRow] = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from None
    return rows


READERS: dict[str, Callable[[Path], list[TableRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
