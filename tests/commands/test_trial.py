"""Scoring a file of completions: which problem each answers, what is said of them, and the command itself."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.chat import TAGS, render_target
from rlvr.cli import app
from rlvr.commands.rewards import try_file
from rlvr.commands.trial import group_by_problem, summaries, total, totals, without_signal
from rlvr.problems import tables
from rlvr.rewards import Scores
from rlvr.tasks.arithmetic import problem
from rlvr.types import Problem, UserError
from rlvr.verifiers.verdict import RIGHT

ROOT = Path(__file__).parents[2]
KNOWN = [problem(47, 38, 2), problem(20, 60, 2)]
FIRST, SECOND = (render_target(one, TAGS["working_out"]) for one in KNOWN)


def asked(*rows: dict[str, Any]) -> list[tuple[Problem, list[str]]]:
    found = group_by_problem(rows, KNOWN, file="some.jsonl", count_tokens=len)
    return [(one, [answered.text for answered in group]) for one, group in found]


def test_a_row_names_a_prepared_problem_by_id_or_question() -> None:
    rows: list[dict[str, Any]] = [
        {"id": KNOWN[0].id, "completion": "a"},
        {"question": KNOWN[1].question, "completion": "b"},
        {"problem_id": KNOWN[0].id, "question": KNOWN[0].question, "answer": "85", "text": "c", "reward": 1.0},
        {"id": "", "question": KNOWN[0].question, "answer": None, "completion": "d"},
    ]
    assert asked(*rows) == [(KNOWN[0], ["a", "c", "d"]), (KNOWN[1], ["b"])]


def test_a_row_may_bring_its_own_problem_with_columns() -> None:
    rows = [{"question": "2 + 2?", "answer": 4, "completion": text, "topic": "sums", "level": "2"} for text in "ab"]
    ((one, texts),) = asked(*rows)
    assert (one.question, one.answer, one.level, dict(one.columns)) == ("2 + 2?", "4", 2, {"topic": "sums"})
    assert texts == ["a", "b"]
    assert len(asked(*rows, rows[0] | {"topic": "more"})) == 2  # another row, though it asks the same


def test_a_row_may_bring_several_golds() -> None:
    [(found, _)] = asked({"question": "Which?", "answer": ["Holland", "the Netherlands"], "completion": "a"})
    assert found.golds == ("Holland", "the Netherlands")


def test_a_table_of_another_run_brings_its_problems() -> None:
    row = {"step": 3, "problem_id": KNOWN[0].id, "question": "other", "answer": "1", "text": "a", "reward/number": 1.0}
    ((one, _),) = asked(row | {"num_tokens": 5, "is_truncated": True, "correct": False, "advantage": 0.0})
    assert (one.question, one.answer, dict(one.columns)) == ("other", "1", {})


def test_tokens_are_counted_unless_the_table_knows() -> None:
    rows = [{"id": KNOWN[0].id, "completion": "abc"} | more for more in ({}, {"num_tokens": "7"}, {"num_tokens": 9})]
    ((_, group),) = group_by_problem(rows, KNOWN, file="some.csv", count_tokens=len)
    assert [one.num_tokens for one in group] == [3, 7, 9]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "47+38", "answer": "85"}, "some.jsonl row 2: no completion[.] .* The columns are id, answer"),
        ({"id": "47+38", "completion": 5}, "no completion"),
        ({"id": "1+1", "completion": "x"}, "id '1[+]1' is none of the 2 problems in data/prepared"),
        ({"completion": "x"}, "id None is none of the 2 problems"),
        ({"question": "other", "completion": "x"}, "question 'other' is none of the 2 problems"),
        ({"id": "47+38", "completion": "x", "num_tokens": "many"}, "num_tokens 'many' is not a whole number"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked({"id": KNOWN[0].id, "completion": "fine"}, row)


def test_totals_and_signal() -> None:
    nan = math.nan
    assert total([1.0, None, 2.0], [2.0, 5.0, -1.0]) == 0.0
    assert total([1.0, nan], [1.0, 0.0]) == 1.0
    assert math.isnan(total([1.0, nan], [1.0, 1.0]))
    assert without_signal([[1.0, 1.0], [1.0, 2.0], [1.0], [1.0, nan], [nan, nan], [1.0, nan, 2.0]]) == (3, 5)


@given(st.lists(st.lists(st.none() | st.floats(-9, 9) | st.just(math.nan), min_size=2, max_size=2), min_size=1))
def test_summaries_count_every_completion_once(points: list[list[float | None]]) -> None:
    scores = Scores(("a", "b"), (1.0, 0.0), [points], [[RIGHT] * len(points)], ())
    for k, one in enumerate(summaries(scores)):
        column = [row[k] for row in points]
        known = [value for value in column if value is not None and not math.isnan(value)]
        assert len(known) + one.not_applicable + one.unscorable == len(points)
        if known:
            assert one.lowest is not None and one.mean is not None and one.highest is not None
            assert one.lowest <= one.mean + 1e-9
            assert one.mean <= one.highest + 1e-9
        else:
            assert one.mean is one.lowest is one.highest is None
    assert len(totals(scores)[0]) == len(points)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the default settings and two prepared problems."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    tables.FOLDER.mkdir(parents=True)
    tables.write_table(tables.FOLDER / "train.parquet", [(one, {}) for one in KNOWN])
    return tmp_path


ROWS = [
    {"id": KNOWN[0].id, "completion": FIRST},
    {"id": KNOWN[0].id, "completion": "85"},
    {"id": KNOWN[1].id, "completion": SECOND},
    {"id": KNOWN[1].id, "completion": SECOND},
]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_command_prints_points_means_and_signal(
    project: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, table = Path(f"some.{kind}"), pd.DataFrame(ROWS)
    if kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, ROWS)))
    else:
        table.to_csv(file, index=False) if kind == "csv" else table.to_parquet(file, index=False)
    try_file(file, None)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert " ".join(lines[0][-13:]) == "format_exact × 1 format_approximate × 1 answer × 1 number × 1 sum"
    assert lines[1][-6:] == ["right", "3", "2", "5", "3.5", "13.5"]
    assert lines[2] == ["47+38", "85", "wrong", "(missing)", "0", "-4", "-2", "0", "-6"]
    assert ["answer", "1", "3.25", "-2", "5", "0", "0"] in lines
    text = "\n".join(map(" ".join, lines))
    assert "4 completions of 2 questions in" in text
    assert "right: 3 (75.0%); unscorable (scoring failed): 0" in text
    assert "questions without signal (all completions worth the same): 1 of 2" in text


def test_a_file_that_is_missing_or_empty_says_what_it_should_hold(project: Path) -> None:
    with pytest.raises(UserError, match=r"none.jsonl does not exist: give a table .* with a completion in each row"):
        try_file(Path("none.jsonl"), None)
    Path("empty.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no rows: write one completion per row"):
        try_file(Path("empty.jsonl"), None)


def test_only_the_first_completions(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("some.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    try_file(Path("some.jsonl"), 1)
    text = capsys.readouterr().out
    assert "1 completions of 1 questions" in text
    assert "questions without signal: unknown, as no question has two completions" in text


def test_a_function_that_fails_is_a_note_with_its_reason(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("user").mkdir()
    Path("user/mine.py").write_text("def odd(completion): return 'three' if completion == '85' else 3")
    params = Path("params.yaml").read_text()
    mine = "rewards:\n  odd: {python: user/mine.py:odd, weight: 1.0, options: {}}\n"
    Path("params.yaml").write_text(params.replace("rewards:  ", mine + "  #", 1))
    Path("some.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    try_file(Path("some.jsonl"), None)
    text = capsys.readouterr().out
    assert "unscorable (scoring failed): 1" in text
    assert "note: rewards.odd: user/mine.py:odd returned 'three' (str) for a completion: return a number" in text


def test_where_nothing_could_be_scored_the_exit_code_says_so(project: Path, run_code: Callable[..., int]) -> None:
    Path("user").mkdir()
    Path("user/mine.py").write_text("def odd(completion): return 1 / (len(completion) - 2)")
    params = Path("params.yaml").read_text()
    mine = "rewards:\n  odd: {python: user/mine.py:odd, weight: 1.0, options: {}}\n"
    Path("params.yaml").write_text(params.replace("rewards:  ", mine + "  #", 1))
    for completions, code in ((["85"], 1), (["85", "8"], 0)):
        rows = [{"id": "47+38", "completion": text} for text in completions]
        Path("some.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert run_code("rewards", "try", "some.jsonl") == code


@pytest.mark.parametrize(
    ("level", "found"),
    [("2", 2), (2, 2), (2.0, 2), ("2.0", 2), ("Level 3", 3), ("hard", 0), ("", 0), (math.nan, 0), ([1], 1), (-1, -1)],
)
def test_a_level_of_any_kind_is_taken(level: Any, found: int) -> None:
    ((one, _),) = asked({"question": "2 + 2?", "answer": 4, "completion": "4", "level": level})
    assert one.level == found


@pytest.mark.parametrize("completion", [[{"role": "assistant", "content": "4"}], []])
def test_a_chat_as_completion_is_refused_as_such(completion: Any) -> None:
    with pytest.raises(
        UserError, match=r"some.jsonl row 1: the completion is a list .* Put the content of the model's"
    ):
        asked({"question": "2 + 2?", "answer": 4, "completion": completion})


def test_the_command_line_says_what_is_wrong(project: Path, run_app: Callable[..., str]) -> None:
    Path("some.jsonl").write_text(json.dumps({"question": "unknown", "completion": "x"}))
    assert "some.jsonl row 1: question 'unknown' is none of the 2 problems" in run_app("rewards", "try", "some.jsonl")
    assert "none.csv does not exist" in run_app("rewards", "try", "none.csv")


@pytest.fixture
def run_code() -> Callable[..., int]:
    """Run a command; its exit code."""

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            app(list(arguments))
        return int(ended.value.code or 0)

    return run


@pytest.fixture
def run_app() -> Callable[..., str]:
    """Run a command; the message of its UserError, which main prints before it ends with exit code 1."""

    def run(*arguments: str) -> str:
        with pytest.raises(UserError) as error:
            app(list(arguments), standalone_mode=False)
        return str(error.value)

    return run
