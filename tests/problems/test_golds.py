"""Golds that the verifier cannot use are found before anything is trained on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlvr.config import Config
from rlvr.problems import golds
from rlvr.problems.golds import bad_golds
from rlvr.problems.prepare import prepare
from rlvr.stages.grpo import check_golds_of_rewards
from rlvr.types import Problem, UserError
from rlvr.verifiers.workers.pool import Workers

SIZES = {
    "prepare.task": "records",
    "prepare.train_problems": None,
    "prepare.sft_problems": 6,
    "prepare.dev_problems": 4,
    "prepare.evaluation_problems": 5,
    "prepare.records.columns.level": None,
    "prepare.records.source": "mine.csv",
}


def problems(*answers: str, solution: str = "") -> list[Problem]:
    return [Problem(f"p{i}", f"Question {i}?", answer, "", 1, solution) for i, answer in enumerate(answers)]


@pytest.fixture
def bad(make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    return lambda name, *rows: bad_golds(make_config({"verifiers.sandbox": "rlimits-only"}).verifiers, name, rows)


@pytest.mark.parametrize(
    ("name", "good", "wrong"),
    [
        ("number", "1,250.00", "see figure"),
        ("number", "8 (eight)", "8 or 9"),
        ("choice", "B) Oslo", "Oslo"),
        ("math", "8 (cups)", "8 cups and 3 spoons"),
        ("math", "\\frac{1}{2}", "x \\in"),
        ("json_schema", '{"type": "object"}', '{"type": "thing"}'),
        ("pattern", "a+", "("),
        (
            "sql",
            '{"setup": "", "query": "SELECT 1", "ordered": true}',
            '{"setup": "", "query": "SELEC", "ordered": true}',
        ),
        ("python", '[{"stdin": "", "stdout": "1"}]', "print(1)"),
    ],
)
def test_every_verifier_says_which_golds_it_cannot_use(
    name: str, good: str, wrong: str, bad: Callable[..., dict[str, str]]
) -> None:
    found = bad(name, *problems(good, wrong))
    assert list(found) == ["p1"] and found["p1"]


@pytest.mark.parametrize("name", ["text", "exact"])
def test_every_text_is_a_gold_of_text(name: str, bad: Callable[..., dict[str, str]]) -> None:
    assert bad(name, *problems("007", "?", "3.10", "see figure")) == {}


def test_a_solution_must_be_right(bad: Callable[..., dict[str, str]]) -> None:
    tests = '[{"call": "f", "args": [1], "result": 2}]'
    program = "def f(x):\n    return x + {}"
    assert bad("python", *problems(tests, solution=program.format(1))) == {}
    found = bad("python", *problems(tests, solution=program.format(2)))
    assert "the solution is wrong" in found["p0"] and "found" in found["p0"]
    assert "the solution is wrong" in bad("text", *problems("Oslo", solution="It is Oslo"))["p0"]


def test_what_an_isolated_verifier_said_is_kept(
    bad: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = problems("a+", "(", *(f"b{i}" for i in range(30)))
    first = bad("pattern", *rows)
    assert list(first) == ["p1"] and "golds 32/32" in capsys.readouterr().out
    asked: list[str] = []
    submit = Workers.submit

    def counted(self: Workers, target: str, arguments: dict[str, Any], **limits: Any) -> Any:
        asked.append(arguments["gold"])
        return submit(self, target, arguments, **limits)

    monkeypatch.setattr(Workers, "submit", counted)
    assert bad("pattern", *rows, *[Problem("new", "?", "c[", "", 1)]).keys() == {"p1", "new"}
    assert asked == ["c["]


@pytest.fixture
def make(make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Prepare rows of (question, answer) in mine.csv; the card, and the tables by split."""
    monkeypatch.chdir(tmp_path)

    def run(answers: list[str], changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
        rows = [{"question": f"Is {i} it?", "answer": a, "working": "so"} for i, a in enumerate(answers)]
        pd.DataFrame(rows).to_csv("mine.csv", index=False)
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        card = prepare(make_config(SIZES | changes), folder, folder / "base")
        return card, {name: pd.read_parquet(folder / f"{name}.parquet") for name in card["splits"]}

    return run


def test_golds_stay_as_they_are_written(make: Callable[..., Any]) -> None:
    written = ["007", "3.10", "02134", "1,250.00", "+5", "5.0", "-0", "0123456789", *(str(i) for i in range(20))]
    _, tables = make(written, {"verifiers.answer": "exact"})
    table = pd.concat(tables.values())
    assert sorted(table["answer"]) == sorted(written)
    for row in tables["sft"].to_dict("records"):
        assert f"<SOLUTION>{row['answer']}</SOLUTION>" in row["target"]


@pytest.mark.parametrize("verifier, remark", [("number", "see figure"), ("math", "x \\in")])
def test_a_bad_gold_is_refused_wherever_it_stands(verifier: str, remark: str, make: Callable[..., Any]) -> None:
    answers = [str(i) for i in range(40)]
    answers[33] = answers[12] = remark
    with pytest.raises(UserError) as error:
        make(answers, {"verifiers.answer": verifier})
    text = str(error.value)
    assert f"verifiers.answer {verifier} cannot use 2 of 40 golds" in text
    assert "mine.csv row-13: " in text and "mine.csv row-34: " in text and "prepare.bad_golds: drop" in text


def test_bad_golds_are_dropped_and_counted(make: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    answers = [str(i) if i % 5 else "see figure" for i in range(40)]
    card, tables = make(answers, {"prepare.bad_golds": "drop"})
    assert {name: len(table) for name, table in tables.items()} == {"train": 17, "sft": 6, "dev": 4, "evaluation": 5}
    assert card["bad_golds"].keys() == {f"row-{i + 1}" for i in range(0, 40, 5)}
    assert "note: 8 rows left out, whose golds number cannot use" in capsys.readouterr().out
    assert "see figure" not in set(pd.concat(tables.values())["answer"])


def test_a_gold_of_the_evaluation_file_is_named_with_its_file(make: Callable[..., Any]) -> None:
    exam = [{"question": f"And {i}?", "answer": "see figure" if i == 4 else str(i), "working": ""} for i in range(5)]
    pd.DataFrame(exam).to_csv("exam.csv", index=False)
    with pytest.raises(UserError, match=r"exam\.csv evaluation-5: the gold 'see figure'"):
        make([str(i) for i in range(40)], {"prepare.records.evaluation_source": "exam.csv"})


def test_many_bad_golds_make_a_short_message() -> None:
    found = {f"row-{i}": "no number" for i in range(30)}
    lines = str(golds.refusal("verifiers.answer number", found, count=90)).splitlines()
    assert len(lines) == 3 + golds.SHOWN and lines[-2] == "  and 20 more"


def test_a_broken_worker_is_no_bad_gold(bad: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="cannot be judged by the verifier pattern"):
        bad("pattern", *problems("a"))
    assert not any(json.loads(line) for line in "".join(f.read_text() for f in golds.KEPT.glob("*")).splitlines())


def test_the_verifier_of_a_reward_reads_the_golds_before_training(make_config: Callable[..., Config]) -> None:
    options = {"right": 3.0, "wrong": -1.0}
    rewards = {"as_number": {"function": "number_matches", "verifier": "number", "weight": 1.0, "options": options}}
    cfg = make_config({"verifiers.answer": "text", "rewards": rewards})
    check_golds_of_rewards(cfg, problems("1", "2"))
    with pytest.raises(UserError, match=r"rewards\.as_number\.verifier number cannot use 1 of 2 golds"):
        check_golds_of_rewards(cfg, problems("1", "Oslo"))


@pytest.mark.parametrize("form", ["duration", "date"])
def test_a_format_that_is_not_checked_is_told(
    form: str, make: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    golds = [json.dumps({"type": "string", "format": form, "title": f"{i}"}) for i in range(26)]
    make(golds, {"verifiers.answer": "json_schema", "verifiers.workers": 1})
    told = f"warning: verifier json_schema does not check the format {form}: any text passes. It checks date, date-time"
    assert capsys.readouterr().out.count(told) == (form == "duration")


def test_nor_one_of_the_verifier_of_a_reward(
    make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    options = {"right": 3.0, "wrong": -1.0}
    rewards = {"shape": {"function": "number_matches", "verifier": "json_schema", "weight": 1.0, "options": options}}
    check_golds_of_rewards(make_config({"verifiers.answer": "text", "rewards": rewards}), problems('{"format": "iri"}'))
    assert "does not check the format iri" in capsys.readouterr().out
