"""Rows of a table in a local file: JSONL, JSON, CSV or Parquet."""

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
    """The rows of a file, or of all files of a folder by name.

    Raises UserError for what is missing, empty, of another kind, not UTF-8 or malformed, naming file and line.
    """
    rows = [row for file in files_of(path) for row in READERS[file.suffix](file)]
    if not rows:
        raise UserError(f"{path} holds no rows: put one question with its answer in each")
    return rows


def files_of(path: Path) -> list[Path]:
    """The tables that `path` is or holds. Raises UserError when there is none."""
    kinds = ", ".join(READERS)
    if not path.exists():
        raise UserError(
            f"{path} does not exist: give a file ({kinds}), a folder of such files, or a hub name owner/name"
        )
    files = sorted(file for file in path.iterdir() if file.suffix in READERS) if path.is_dir() else [path]
    if not files:
        raise UserError(f"the folder {path} holds no file of a kind that can be read: {kinds}")
    if files[0].suffix not in READERS:
        raise UserError(f"{path}: files of kind {path.suffix!r} cannot be read; give one of {kinds}")
    return files


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it with that encoding") from None


def _jsonl(path: Path) -> list[TableRow]:
    lines = _text(path).split("\n")
    return [_object(line, f"{path} line {i}") for i, line in enumerate(lines, start=1) if line.strip()]


def _json(path: Path) -> list[TableRow]:
    try:
        rows = json.loads(_text(path) or "[]")
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not valid JSON ({error.msg})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must be a list of objects, one for each question; one object a line is .jsonl")
    return rows


def _object(line: str, place: str) -> TableRow:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not valid JSON ({error.msg}): one object on each line") from None
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
