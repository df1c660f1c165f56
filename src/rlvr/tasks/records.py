"""The user's own questions: rows of a file, a folder or a hub data set, with mapped columns and simple filters."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from rlvr.tasks.cells import lookup, text_at, texts_at
from rlvr.tasks.conversation import asked, fault_of, is_conversation, unpacked
from rlvr.tasks.filters import passes
from rlvr.tasks.layouts import KEY, Layout, layout_of
from rlvr.tasks.pools import Pools
from rlvr.tasks.source import DataSource, read
from rlvr.tasks.table import TableRow
from rlvr.tasks.text import plain_number
from rlvr.types import Problem, UserError

if TYPE_CHECKING:
    from rlvr.config import Prepare, Records

NO_LEVEL, LONGEST_LEVEL = 0, 9  # the level of a row without one, and the most digits of one
NUMBER, WHOLE = re.compile(r"(?:(?<!\w)-)?\d+(?:[.,]\d+)*"), re.compile(r"\d{1,9}")


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
        f"{KEY}evaluation_", source, records.subset, records.evaluation_split or records.split, revision,
        has_own_split=records.evaluation_split is not None,
    )  # fmt: skip
    evaluation, evaluation_origin = _pool(records, evaluation_data, "evaluation")
    rng.shuffle(evaluation)
    warnings = [*origin["warnings"], *evaluation_origin.pop("warnings")]
    return Pools(training, evaluation, origin | {"evaluation": evaluation_origin, "warnings": warnings})


def _pool(records: Records, data: DataSource, prefix: str) -> tuple[list[Problem], dict[str, Any]]:
    """The problems of the rows that pass the filters, and the number of the others, for the card."""
    table, origin = read(data)
    rows = [{name: unpacked(value) for name, value in row.items()} for row in table]
    layout = layout_of(records, rows, data.source)
    problems, left_out = [], Counter[str]()
    for i, row in enumerate(rows, start=1):
        where = f"{data.source} row {i}"
        failed = [name for name, conditions in records.filters.items() if not passes(row, name, conditions, where)]
        problem = None if failed else _problem(layout, row, f"{prefix}-{i}", where)
        if problem is None:
            left_out[f"filters.{failed[0]}" if failed else "empty question or answer"] += 1
        else:
            problems.append(problem)
    if not problems:
        raise UserError(f"{data.source}: none of the {len(rows)} rows is left (left out: {dict(left_out)})")
    warnings = [*origin["warnings"], *_notes(layout, problems, data.source)]
    return problems, origin | {"rows": len(rows), "left_out": dict(left_out), "warnings": warnings}


def _notes(layout: Layout, problems: list[Problem], source: str) -> list[str]:
    notes = [layout.note] if layout.note else []
    without = sum(problem.level == NO_LEVEL for problem in problems)
    if layout.level and without:
        notes.append(
            f"{source}: {without} of {len(problems)} rows have no whole number in column {layout.level!r} and are in "
            f"no level. It only splits a table of the report; {KEY}columns.level: null goes without"
        )
    return notes


def _problem(layout: Layout, row: TableRow, identity: str, where: str) -> Problem | None:
    """The row as a problem; None if question or answer is empty."""
    conversation = lookup(row, layout.question)
    if is_conversation(conversation):
        context, question = asked(conversation, where)
    elif fault := fault_of(conversation):
        raise UserError(f"{where}: column {layout.question!r}: {fault}")
    else:
        context, question = (), text_at(row, layout.question, where)
    golds = texts_at(row, layout.answer, where)
    if not question or not golds:
        return None
    working = text_at(row, layout.working, where) if layout.working else ""
    solution = text_at(row, layout.solution, where) if layout.solution else ""
    level = _level(text_at(row, layout.level, where)) if layout.level else 1
    named = set(layout.named().values())
    others = {name: _plain(value) for name, value in row.items() if name not in named}
    return Problem(identity, question, golds[0], working, level, solution, others, tuple(golds[1:]), context)


def _level(text: str) -> int:
    """The one whole number in `text`, as in Level 3; NO_LEVEL without one."""
    numbers = NUMBER.findall(plain_number(text) or text)
    is_one = len(numbers) == 1 and WHOLE.fullmatch(numbers[0]) and len(numbers[0]) <= LONGEST_LEVEL
    return int(numbers[0]) if is_one else NO_LEVEL


def _plain(value: Any) -> Any:
    """A cell as a JSON value; dates and the like become text."""
    return json.loads(json.dumps(value, default=str))
