"""Compare the results of two SQL queries on a database set up by the gold. Only called in a worker: it may hang."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

from rlvr.verifiers.fences import unfence
from rlvr.verifiers.verdict import GOLD, OUTPUT, UNPARSABLE, Verdict, fault, right_if, wrong

ROWS = 100_000  # maximum rows in the gold's result
VALUE_BYTES = 10_000_000  # maximum size of a value or row
FIELDS = {"setup": str, "query": str, "ordered": bool}

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}

SqlRow = tuple[Any, ...]


def verify(answer: str, gold: str) -> Verdict:
    """Right if the query `answer` returns the same rows as the gold's query, on the database of the gold's setup.

    `gold` is JSON: {"setup": "CREATE …; INSERT …", "query": "SELECT …", "ordered": bool}. Rows are compared as a
    multiset, or in their order if `ordered`; columns by position, not by name; numbers to 9 digits. The answer is one
    statement, bare or in a code fence, that may only read (enforced by sqlite's authorizer).
    """
    try:
        task = read(gold)
    except ValueError as error:
        return fault(GOLD, f"the gold is not an SQL task: {error}")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        try:
            prepare(database, task["setup"])
            gold_query = database.execute(task["query"])
            expected = gold_query.fetchmany(ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            return fault(GOLD, f"the gold's SQL fails: {str(error)!a}")
        if len(expected) > ROWS:
            return fault(GOLD, f"the gold's query returns more than {ROWS:,} rows")
        try:
            query = database.execute(unfence(answer))
            rows = query.fetchmany(len(expected) + 1)  # more are wrong anyway
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            is_too_big = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG
            return wrong(OUTPUT if is_too_big else UNPARSABLE, ascii(str(error))[:300])
        if query.description is None:
            return wrong(UNPARSABLE, "not a query")
        has_columns = len(query.description) == len(gold_query.description or ())
    return right_if(has_columns and same(rows, expected, is_ordered=task["ordered"]))


def read(gold: str) -> dict[str, Any]:
    task = json.loads(gold)
    if not isinstance(task, dict) or task.keys() != FIELDS.keys():
        raise ValueError(f"it must be a JSON object with {', '.join(FIELDS)}")
    for name, kind in FIELDS.items():
        if not isinstance(task[name], kind):
            raise ValueError(f"{name} must be a {kind.__name__}, found {type(task[name]).__name__}")
    return task


def prepare(database: sqlite3.Connection, setup: str) -> None:
    """Run the setup, then make the database read-only."""
    for limit, value in LIMITS.items():
        database.setlimit(limit, value)
    database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    database.execute("PRAGMA temp_store = MEMORY")  # memory is limited, the disk is not
    database.executescript(setup)
    database.execute("PRAGMA query_only = ON")
    database.set_authorizer(authorize)


def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    is_forbidden = action == sqlite3.SQLITE_FUNCTION and second in FORBIDDEN_FUNCTIONS
    return sqlite3.SQLITE_OK if action in READING and not is_forbidden else sqlite3.SQLITE_DENY


def same(rows: list[SqlRow], expected: list[SqlRow], *, is_ordered: bool) -> bool:
    rounded_rows, rounded_expected = [rounded(row) for row in rows], [rounded(row) for row in expected]
    return rounded_rows == rounded_expected if is_ordered else Counter(rounded_rows) == Counter(rounded_expected)


def rounded(row: SqlRow) -> SqlRow:
    return tuple(float(f"{value:.9g}") if isinstance(value, float) else value for value in row)
