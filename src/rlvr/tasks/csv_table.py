"""Read CSV as spreadsheets write it: other separators, empty columns at the end, cells of any length."""

from __future__ import annotations

import csv
import io
import re
import sys
from itertools import islice
from pathlib import Path

from rlvr.types import UserError

SEPARATORS = ",;\t|"
LONGEST_CELL = min(sys.maxsize, 2**31 - 1)  # characters; Python's own limit is 131,072


EXCEL = re.compile(r'"?sep=([^\w\r\n])"?(?=[\r\n])', re.IGNORECASE)


def read_csv(text: str, path: Path) -> list[dict[str, str]]:
    """The rows by the header; columns without a name are left out. Raises UserError, naming the line."""
    csv.field_size_limit(LONGEST_CELL)
    separator, text = _separator(text.lstrip("\r\n"))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        if len(set(filter(None, head))) < len(list(filter(None, head))):
            raise UserError(f"{path}: the header names a column twice: {', '.join(head)}")
        rows = []
        for fields in reader:
            if not fields:
                continue
            if len(fields) < len(head) or any(fields[len(head) :]):
                raise UserError(
                    f"{path} line {reader.line_num}: {len(fields)} values for {len(head)} columns: "
                    f'put values that hold {_spelled(separator)} or a line break in "quotes"'
                )
            rows.append({name: field for name, field in zip(head, fields, strict=False) if name})
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not valid CSV ({error})") from None
    return rows


def _separator(text: str) -> tuple[str, str]:
    """The separator that splits header and first row alike into the most columns, and the text without Excel's sep=."""
    if mark := EXCEL.match(text):
        return mark[1], text[mark.end() :].lstrip("\r\n")
    return max(SEPARATORS, key=lambda separator: _columns(text, separator)), text


def _columns(text: str, separator: str) -> tuple[bool, int]:
    try:
        head, *rows = islice(csv.reader(io.StringIO(text, newline=""), delimiter=separator), 2)
    except (ValueError, csv.Error):
        return False, 0
    return len(head) > 1 and all(len(row) >= len(head) for row in rows), len(head)


def _spelled(separator: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab"}.get(separator, repr(separator))
