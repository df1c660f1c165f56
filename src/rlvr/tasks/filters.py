"""Filters of rows: the conditions min, max, in and not_empty on their columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlvr.tasks.cells import text_at
from rlvr.tasks.table import TableRow
from rlvr.tasks.text import plain_number
from rlvr.types import UserError

Conditions = Mapping[Any, Any]  # one of min, max, in, not_empty → its value


def passes(row: TableRow, column: str, conditions: Conditions, where: str) -> bool:
    """Whether the row meets all `conditions` on `column`. Raises UserError, naming `where`, for a bound on text."""
    text = text_at(row, column, where)
    if "in" in conditions and _comparable(text) not in {
        _comparable(text_at({column: value}, column, where)) for value in conditions["in"]
    }:
        return False
    if "not_empty" in conditions and not text:
        return False
    bounds = {key: conditions[key] for key in ("min", "max") if key in conditions}
    if not bounds or not text:
        return not bounds
    number = plain_number(text)
    if number is None:
        raise UserError(f"{where}: prepare.records.filters.{column} compares numbers, found {text!r}")
    least, most = bounds.get("min", -math.inf), bounds.get("max", math.inf)
    return bool(least <= float(number) <= most)


def _comparable(text: str) -> str:
    return plain_number(text) or text
