"""Compare the results of two SQL queries on a database set up by the gold. Only called in a worker: it may hang."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from rlvr.verifiers.fences import unfence
from rlvr.verifiers.verdict import GOLD, OUTPUT, RIGHT, UNPARSABLE, Verdict, fault, right_if, wrong

ROWS = 100_000  # maximum rows in the gold's result
VALUE_BYTES = 10_000_000  # maximum size of a value or row
FIELDS: dict[str, type | tuple[type, ...]] = {"setup": (str, list), "query": str, "ordered": bool}

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
NO_TABLES = {"json_each", "json_tree", "sqlite_master", "sqlite_schema"}  # can be read without the data of the setup
DATA_VERSION = "data_version"  # the pragma that a full-text index (FTS5) asks when it is read; it changes nothing
FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}

SqlRow = tuple[Any, ...]


@dataclass(frozen=True)
class Result:
    """The rows of a query, its columns, and the setup's tables that it read."""

    rows: list[SqlRow]
    num_columns: int
    tables: frozenset[str]


def verify(answer: str, gold: str) -> Verdict:
    """Right if the query `answer` returns the same rows as the gold's query, on each database that the gold sets up.

    `gold` is JSON: {"setup": "CREATE …; INSERT …", "query": "SELECT …", "ordered": bool}. With a list of setups, an
    answer that fits only one database by chance is wrong. Rows are compared as a multiset, or in their order if
    `ordered`; columns by position, not by name; numbers to 9 digits. The answer is one statement, bare or in a code
    fence, that may only read (enforced by sqlite's authorizer). It must read a table where the gold's query does.
    """
    try:
        task = read(gold)
    except ValueError as error:
        return fault(GOLD, f"the gold is not an SQL task: {error}")
    for setup in task["setup"]:
        verdict = _verify_on(setup, answer, task)
        if not verdict.is_right:
            return verdict
    return RIGHT


def check_gold(gold: str) -> Verdict:
    """A fault unless `gold` is a task whose own query runs on each of its databases."""
    try:
        return verify(read(gold)["query"], gold)
    except ValueError as error:
        return fault(GOLD, f"the gold is not an SQL task: {error}")


def _verify_on(setup: str, answer: str, task: dict[str, Any]) -> Verdict:
    # without a cache: sqlite asks the authorizer only about statements that it has not prepared yet
    with closing(sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)) as database:
        try:
            tables = prepare(database, setup)
            expected = run(database, task["query"], ROWS + 1, tables)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            return fault(GOLD, f"the gold's SQL fails: {str(error)!a}")
        if len(expected.rows) > ROWS:
            return fault(GOLD, f"the gold's query returns more than {ROWS:,} rows")
        try:
            result = run(database, unfence(answer), len(expected.rows) + 1, tables)  # more are wrong anyway
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            is_too_big = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG
            return wrong(OUTPUT if is_too_big else UNPARSABLE, ascii(str(error))[:300])
    if not result.num_columns:
        return wrong(UNPARSABLE, "not a query")
    if expected.tables and not result.tables:
        return Verdict("wrong", None, "it writes the result down, without reading a table")
    is_same = same(result.rows, expected.rows, is_ordered=task["ordered"])
    return right_if(result.num_columns == expected.num_columns and is_same)


def read(gold: str) -> dict[str, Any]:
    """The task, with `setup` as a list. Raises ValueError."""
    try:
        task = json.loads(gold)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(task, dict) or task.keys() != FIELDS.keys():
        raise ValueError(f"it must be a JSON object with {', '.join(FIELDS)}")
    for name, kind in FIELDS.items():
        if not isinstance(task[name], kind):
            raise ValueError(f"{name} must not be a {type(task[name]).__name__}")
    setups = [task["setup"]] if isinstance(task["setup"], str) else task["setup"]
    if not setups or not all(isinstance(setup, str) for setup in setups):
        raise ValueError("setup must be SQL, or a list of it with one text for each database")
    return task | {"setup": setups}


def run(database: sqlite3.Connection, query: str, rows: int, tables: set[str]) -> Result:
    """At most that many rows of the query; `tables` collects what the database reads."""
    tables.clear()
    cursor = database.execute(query)
    return Result(cursor.fetchmany(rows), len(cursor.description or ()), frozenset(tables))


def prepare(database: sqlite3.Connection, setup: str) -> set[str]:
    """Run the setup, then make the database read-only; the set will hold the tables that a statement reads."""
    for limit, value in LIMITS.items():
        database.setlimit(limit, value)
    database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    database.execute("PRAGMA temp_store = MEMORY")  # memory is limited, the disk is not
    database.executescript(setup)
    database.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")  # their first use declares them as tables
    database.execute("PRAGMA query_only = ON")
    tables: set[str] = set()

    def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and first and first.lower() not in NO_TABLES:
            tables.add(first)
        is_forbidden = action == sqlite3.SQLITE_FUNCTION and second in FORBIDDEN_FUNCTIONS
        is_reading = action in READING or (action == sqlite3.SQLITE_PRAGMA and (first, second) == (DATA_VERSION, None))
        return sqlite3.SQLITE_OK if is_reading and not is_forbidden else sqlite3.SQLITE_DENY

    database.set_authorizer(authorize)
    return tables


def same(rows: list[SqlRow], expected: list[SqlRow], *, is_ordered: bool) -> bool:
    rounded_rows, rounded_expected = [rounded(row) for row in rows], [rounded(row) for row in expected]
    return rounded_rows == rounded_expected if is_ordered else Counter(rounded_rows) == Counter(rounded_expected)


def rounded(row: SqlRow) -> SqlRow:
    return tuple(float(f"{value:.9g}") if isinstance(value, float) else value for value in row)
