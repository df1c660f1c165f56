"""Queries by their results, on a database that they can only read."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.sql import check_gold, verify
from rlvr.verifiers.verdict import Verdict

SETUP = "CREATE TABLE t (a INT, b TEXT, c REAL); INSERT INTO t VALUES (1, 'x', 0.5), (2, 'y', 0.1), (3, 'y', 0.2);"
QUERY = "SELECT b, count(*) FROM t GROUP BY b ORDER BY b"


def of(answer: str, *, setup: str = SETUP, query: str = QUERY, ordered: bool = False) -> Verdict:
    return verify(answer, json.dumps({"setup": setup, "query": query, "ordered": ordered}))


@pytest.mark.parametrize(
    "answer",
    [
        QUERY,
        f"{QUERY}; -- done",
        "```sql\nSELECT b, sum(1) AS n FROM t\nGROUP BY b\n```",
        "WITH q AS (SELECT * FROM t) SELECT b, count(a) FROM q GROUP BY 1 ORDER BY 1 DESC",
        "SELECT DISTINCT b, (SELECT count(*) FROM t AS u WHERE u.b = t.b) FROM t",
        "SELECT 'y', 2.0 FROM t WHERE a = 1 UNION ALL SELECT b, 1 FROM t WHERE a = 1",
    ],
)
def test_the_same_result_is_right(answer: str) -> None:
    assert of(answer).outcome == "right"


@pytest.mark.parametrize(
    "answer",
    [
        "SELECT b FROM t",
        "SELECT count(*), b FROM t GROUP BY b",
        "SELECT b, count(*) FROM t",
        "SELECT b, count(*) FROM t GROUP BY b UNION ALL SELECT 'x', 1",
        "SELECT b, 1 FROM t",
        "SELECT * FROM t",
        "SELECT b, count(*) FROM t WHERE 0 GROUP BY b",
        "SELECT b, '1' FROM t WHERE b = 'x' UNION ALL SELECT 'y', '2'",
        "VALUES ('y', 2), ('x', 1)",
    ],
)
def test_another_result_is_plainly_wrong(answer: str) -> None:
    found = of(answer)
    assert (found.outcome, found.cause) == ("wrong", None)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "-- nothing",
        "SELEC b",
        "SELECT nothing FROM t",
        f"{QUERY}; SELECT 1",
        "SELECT '\ud800'",
        "SELECT 'a\0'",
        "DROP TABLE t",
        "DELETE FROM t",
        "UPDATE t SET a = 1",
        "INSERT INTO t VALUES (1, 2, 3) RETURNING *",
        "CREATE TEMP TABLE u (a)",
        "PRAGMA writable_schema = 1",
        "PRAGMA query_only = 0",
        "SELECT * FROM pragma_table_info('t')",
        "SELECT load_extension('/lib/x.so')",
        "BEGIN",
        "SELECT " + "(" * 100_000 + "1" + ")" * 100_000,
    ],
)
def test_what_is_no_reading_statement_is_unparsable(answer: str) -> None:
    found = of(answer)
    assert (found.outcome, found.cause) == ("wrong", "unparsable") and found.message


@pytest.mark.parametrize("module", ["fts5(a, b)", "fts4(a, b)", "fts5(a, b, tokenize = 'porter')", "rtree(id, a, b)"])
def test_virtual_tables_can_be_read(module: str) -> None:
    rows = "(1, 2, 3), (4, 5, 6)" if "rtree" in module else "('red apples', 'x'), ('blue', 'y')"
    gold = {"setup": f"CREATE VIRTUAL TABLE f USING {module}; INSERT INTO f VALUES {rows}", "ordered": False}
    assert check_gold(json.dumps(gold | {"query": "SELECT * FROM f"})).is_right
    if "fts" in module:
        task = json.dumps(gold | {"query": "SELECT a, b FROM f WHERE f MATCH 'apples' ORDER BY rowid"})
        assert verify("SELECT * FROM f WHERE a = 'red apples'", task).is_right
        assert verify("SELECT * FROM f", task).outcome == "wrong"
    for statement in (
        "DELETE FROM f",
        "INSERT INTO f(f) VALUES ('optimize')",
        "DROP TABLE f",
        "PRAGMA data_version = 1",
    ):
        assert verify(statement, json.dumps(gold | {"query": "SELECT * FROM f"})).cause == "unparsable"


LIST = json.dumps(
    {
        "setup": "CREATE TABLE bags (name, weights); INSERT INTO bags VALUES ('red', '[3, 4]'), ('blue', '[5]')",
        "query": "SELECT name, sum(value) FROM bags, json_each(weights) GROUP BY name",
        "ordered": False,
    }
)


def test_lists_in_json_can_be_read() -> None:
    assert check_gold(LIST).is_right
    assert verify(
        "SELECT b.name, total(w.value) FROM bags b, json_tree(b.weights) w WHERE w.atom GROUP BY 1", LIST
    ).is_right
    assert verify("SELECT name, sum(value) FROM bags JOIN json_each(weights) GROUP BY 1", LIST).is_right
    assert verify("VALUES ('red', 7), ('blue', 5)", LIST).outcome == "wrong"


@pytest.mark.parametrize(
    "source",
    ["json_each('[1, 2, 3]')", "json_tree('[1, 2, 3]') WHERE atom", "(SELECT 1 AS value UNION VALUES (2), (3))"],
)
def test_a_list_that_the_query_writes_itself_is_no_table(source: str) -> None:
    gold = "SELECT a FROM t ORDER BY a"
    assert of("SELECT a FROM t", query=gold).is_right
    assert of(f"SELECT value FROM {source}", query=gold).outcome == "wrong"
    assert of("SELECT 1 FROM sqlite_master UNION SELECT 2 UNION SELECT 3", query=gold).outcome == "wrong"


def test_every_database_must_agree() -> None:
    setups = [f"CREATE TABLE t (a INT); INSERT INTO t VALUES (1), ({last})" for last in (5, 9)]
    gold = json.dumps({"setup": setups, "query": "SELECT max(a) FROM t", "ordered": False})
    assert check_gold(gold).is_right and verify("SELECT a FROM t ORDER BY a DESC LIMIT 1", gold).is_right
    assert verify("SELECT a FROM t WHERE a = 5", gold).outcome == "wrong"
    assert verify("SELECT 9 FROM t LIMIT 1", gold).outcome == "wrong"
    with_error = json.dumps({"setup": [setups[0], "CREATE TABLE u (a)"], "query": "SELECT a FROM t", "ordered": True})
    assert check_gold(with_error).is_fault


@pytest.mark.parametrize("statement", ["ATTACH '{}' AS other", "VACUUM INTO '{}'"])
def test_no_file_is_written(tmp_path: Path, statement: str) -> None:
    target = tmp_path / "other.db"
    assert of(statement.format(target)).cause == "unparsable"
    assert of(QUERY, setup=statement.format(target)).is_fault
    assert not target.exists()


@pytest.mark.parametrize("answer", ["SELECT randomblob(1000000000)", "SELECT zeroblob(999999999), 1"])
def test_huge_values_are_over_the_output_limit(answer: str) -> None:
    found = of(answer)
    assert (found.outcome, found.cause) == ("wrong", "output")


def test_the_order_counts_only_where_the_gold_says_so() -> None:
    backwards = "SELECT a FROM t ORDER BY a DESC"
    assert of(backwards, query="SELECT a FROM t ORDER BY a").outcome == "right"
    assert of(backwards, query="SELECT a FROM t ORDER BY a", ordered=True).outcome == "wrong"


def test_numbers_are_equal_to_nine_digits() -> None:
    assert of("SELECT 0.3", query="SELECT 0.1 + 0.2").outcome == "right"
    assert of("SELECT 0.3001", query="SELECT 0.1 + 0.2").outcome == "wrong"


def test_rows_that_are_no_text_at_all_are_compared() -> None:
    assert of("SELECT CAST(x'ff' AS TEXT)", query="SELECT CAST(x'ff' AS TEXT)").outcome == "right"
    assert of("SELECT NULL", query="SELECT CAST(x'ff' AS TEXT)").outcome == "wrong"


def test_an_empty_result_is_right_only_with_as_many_columns() -> None:
    assert of("SELECT b FROM t WHERE a > 9", query="SELECT a FROM t WHERE a > 8").outcome == "right"
    assert of("SELECT a, b FROM t WHERE a > 9", query="SELECT a FROM t WHERE a > 8").outcome == "wrong"


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "[]",
        '{"setup": "", "query": "SELECT 1"}',
        '{"setup": "", "query": "SELECT 1", "ordered": 1}',
        '{"setup": "", "query": "SELECT 1", "ordered": false, "more": 1}',
        '{"setup": "CREATE nothing", "query": "SELECT 1", "ordered": false}',
        '{"setup": "", "query": "SELECT a FROM t", "ordered": false}',
        '{"setup": "", "query": "DELETE FROM t", "ordered": false}',
        '{"setup": [], "query": "SELECT 1", "ordered": false}',
        '{"setup": [1], "query": "SELECT 1", "ordered": false}',
    ],
)
def test_a_bad_task_is_our_fault(gold: str) -> None:
    for found in (verify("SELECT 1", gold), check_gold(gold)):
        assert (found.outcome, found.cause) == ("fault", "gold") and found.message


def test_a_gold_with_too_many_rows_is_our_fault() -> None:
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100001) SELECT i FROM n"
    assert of("SELECT 1", query=many).is_fault


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("xy")), min_size=1, max_size=8), st.randoms())
def test_rows_are_a_multiset(rows: list[tuple[int, str]], random: Random) -> None:
    values = ", ".join(f"({a}, '{b}')" for a, b in rows)
    shuffled = sorted(rows, key=lambda _: random.random())
    again = ", ".join(f"({a}, '{b}')" for a, b in shuffled)
    assert of(f"VALUES {again}", query=f"VALUES {values}").outcome == "right"
    assert of(f"VALUES {again}, (0, 'x')", query=f"VALUES {values}").outcome == "wrong"
