"""The user's own questions: rows of a file, a folder or a hub data set, with mapped columns and simple filters."""

from __future__ import annotations

import difflib
import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from rlvr.tasks.filters import passes, text_of
from rlvr.tasks.pools import Pools
from rlvr.tasks.source import DataSource, read
from rlvr.tasks.table import TableRow
from rlvr.tasks.text import plain_number
from rlvr.types import Problem, UserError

if TYPE_CHECKING:
    from rlvr.config import Prepare, Records

KEY = "prepare.records."


def load(prepare: Prepare, seed: int) -> Pools:
    """Problems in seeded order. Without separate evaluation data, evaluation is held out from the same rows.

    Raises UserError for data that cannot be read, for missing columns and for values of the wrong type.
    """
    records, rng = prepare.records, random.Random(f"records {seed}")
    training, origin = _pool(
        records, DataSource(KEY, records.source, records.subset, records.split, records.revision), "row"
    )
    rng.shuffle(training)
    if records.evaluation_source is None and records.evaluation_split is None:
        return Pools(training, None, origin)
    source = records.evaluation_source or records.source
    revision = records.evaluation_revision if records.evaluation_source else origin.get("revision")
    evaluation_data = DataSource(
        f"{KEY}evaluation_", source, records.subset, records.evaluation_split or records.split, revision
    )
    evaluation, evaluation_origin = _pool(records, evaluation_data, "evaluation")
    rng.shuffle(evaluation)
    warnings = [*origin["warnings"], *evaluation_origin.pop("warnings")]
    return Pools(training, evaluation, origin | {"evaluation": evaluation_origin, "warnings": warnings})


def _pool(records: Records, data: DataSource, prefix: str) -> tuple[list[Problem], dict[str, Any]]:
    """The problems of the rows that pass the filters, and the number of the others, for the card."""
    rows, origin = read(data)
    _check_columns(records, rows, data.source)
    problems, left_out = [], Counter[str]()
    for i, row in enumerate(rows, start=1):
        where = f"{data.source} row {i}"
        failed = [name for name, conditions in records.filters.items() if not passes(row, name, conditions, where)]
        problem = None if failed else _problem(records, row, f"{prefix}-{i}", where)
        if problem is None:
            left_out[f"filters.{failed[0]}" if failed else "empty question or answer"] += 1
        else:
            problems.append(problem)
    if not problems:
        raise UserError(f"{data.source}: none of the {len(rows)} rows is left (left out: {dict(left_out)})")
    return problems, origin | {"rows": len(rows), "left_out": dict(left_out)}


def _check_columns(records: Records, rows: list[TableRow], source: str) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    names = {f"columns.{key}": name for key, name in records.columns.model_dump().items() if name is not None}
    for key, name in (names | {f"filters.{name}": name for name in records.filters}).items():
        if name not in columns:
            close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{KEY}{key}: {source} has no column {name!r}; it has {', '.join(columns)}{hint}")


def _problem(records: Records, row: TableRow, identity: str, where: str) -> Problem | None:
    """The row as a problem; None if question or answer is empty."""
    columns = records.columns
    question, answer = (text_of(row, name, where) for name in (columns.question, columns.answer))
    working = text_of(row, columns.working, where) if columns.working else ""
    if not question or not answer:
        return None
    solution = text_of(row, columns.solution, where) if columns.solution else ""
    level = text_of(row, columns.level, where) if columns.level else "1"
    whole = plain_number(level)
    if whole is None or "." in whole:
        raise UserError(f"{where}: column {columns.level!r} must hold a whole number, found {level!r}")
    named = set(columns.model_dump().values())
    others = {name: _plain(value) for name, value in row.items() if name not in named}
    return Problem(identity, question, plain_number(answer) or answer, working, int(whole), solution, others)


def _plain(value: Any) -> Any:
    """A cell as a JSON value; dates and the like become text."""
    return json.loads(json.dumps(value, default=str))
