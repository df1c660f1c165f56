"""The doctor: what a rubric accepts that it should not is found, and a sound rubric has no findings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlvr.chat import TAGS, extract_answer, render_target
from rlvr.cli import app
from rlvr.commands.doctor import (
    HEAVY,
    HONEST,
    WORKED,
    Finding,
    Trick,
    completions,
    examine,
    findings,
    is_conclusive,
    wrong_answer,
)
from rlvr.commands.rewards import doctor
from rlvr.config import Config
from rlvr.config.presets import with_overlay
from rlvr.problems import tables
from rlvr.rewards import open_scorer
from rlvr.tasks.arithmetic import problem
from rlvr.types import Problem, UserError
from rlvr.verifiers.verdict import RIGHT, WRONG, fault

ROOT = Path(__file__).parents[2]
USED = TAGS["working_out"]
PROBLEMS = [problem(47, 38, 2), problem(20, 60, 2), problem(11, 12, 2)]
HONEST_VERDICT = Trick(HONEST, (3.0, 3.0), (RIGHT, RIGHT), 0.0, ())


@pytest.mark.parametrize("name", TAGS)
def test_only_the_honest_ones_have_a_right_answer(name: str) -> None:
    tags = TAGS[name]
    made = completions(PROBLEMS[0], PROBLEMS[1:], tags)
    answers = {kind: extract_answer(text, tags) for kind, text in made.items()}
    assert [kind for kind, answer in answers.items() if answer == "85"] == [HONEST, WORKED]
    assert max(map(len, made.values())) >= 9_999_990
    assert len(made) == len(set(made.values()))


def test_every_trick_that_names_the_answer_holds_it() -> None:
    made = completions(PROBLEMS[0], PROBLEMS[1:], USED)
    for kind in ("the answer without tags", "every answer at once", "right in the reasoning only", "nested tags"):
        assert "85" in made[kind]
    assert "85" not in made["a wrong answer"]


def gold(answer: str, solution: str = "") -> Problem:
    return Problem("p", "q", answer, "", 1, solution)


@pytest.mark.parametrize(
    ("one", "others", "expected"),
    [
        (gold("85"), [], "1177"),
        (gold("-1007"), [], "3021"),
        (gold("1,000.5"), [gold("7")], "3008"),
        (gold("B"), [gold("b"), gold("C")], "C"),
        (gold("B"), [gold("b")], "no idea"),
        (gold("{schema}", "x"), [gold("{schema}", "y"), gold("{other}", "z")], "z"),
        (gold("tests", "4"), [], "no idea"),
    ],
)
def test_a_wrong_answer_is_wrong(one: Problem, others: list[Problem], expected: str) -> None:
    assert wrong_answer(one, others) == expected


def test_a_rubric_that_pays_for_the_answer_most_has_no_findings(make_config: Callable[..., Config]) -> None:
    cfg = make_config({})
    with open_scorer(cfg.rewards, cfg.verifiers, USED) as scorer:
        tricks = examine(scorer, PROBLEMS, USED, max_completion_tokens=48)
    assert [len(trick.totals) for trick in tricks if trick.kind in HEAVY] == [1] * len(HEAVY)
    assert {trick.kind: trick.verdict for trick in tricks if trick.is_honest} == {HONEST: "right", WORKED: "right"}
    assert [trick.kind for trick in tricks if "right" in trick.verdict] == [HONEST, WORKED]
    assert not [finding for finding in findings(tricks) if finding.is_accepted]


def test_a_rubric_that_pays_for_format_only_is_found(make_config: Callable[..., Config]) -> None:
    rewards = {"format_exact": {"weight": 1.0, "options": {"points": 1.0}}}
    cfg = make_config({"rewards": rewards})
    with open_scorer(cfg.rewards, cfg.verifiers, USED) as scorer:
        found = findings(examine(scorer, PROBLEMS, USED, max_completion_tokens=48))
    accepted = {finding.message.partition(":")[0] for finding in found if finding.is_accepted}
    assert {"a wrong answer", "every answer at once", "null bytes", "10 MB of digits"} <= accepted
    assert not {"nothing", "the answer without tags", "nested tags", "the answer twice"} & accepted


def trick(kind: str = "nothing", **changes: Any) -> Trick:
    values: dict[str, Any] = {"totals": (0.0, 0.0), "verdicts": (WRONG, WRONG), "seconds": 0.0, "messages": ()}
    return Trick(kind, **values | changes)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (trick(), []),
        (
            trick(totals=(3.0, 0.0)),
            [("nothing: worth at least as much as the right answer, 1 of 2 (for example 3; the right answer 3)", True)],
        ),
        (trick(verdicts=(WRONG, RIGHT)), [("nothing: judged right, 1 of 2", True)]),
        (
            trick(totals=(float("nan"), 0.0), messages=("rewards.own: timeout: over its limit of 1 s",)),
            [("could not be scored: nothing (1 of 2): rewards.own: timeout: over its limit of 1 s", False)],
        ),
        (
            trick(verdicts=(fault("gold", "?"), WRONG)),
            [("could not be scored: nothing (1 of 2): no reason given", False)],
        ),
        (trick(seconds=2.5), [("nothing: takes 2.5 s to score", False)]),
        (trick(HEAVY[0], totals=(1.0,), verdicts=(WRONG,)), []),
    ],
)
def test_what_is_found(found: Trick, expected: list[tuple[str, bool]]) -> None:
    assert findings([HONEST_VERDICT, found]) == [Finding(*one) for one in expected]


def test_kinds_with_the_same_reason_stand_together() -> None:
    broken: dict[str, Any] = {"totals": (float("nan"),) * 2, "messages": ("rewards.own: crash",)}
    found = findings([HONEST_VERDICT, trick(**broken), trick("white space", **broken)])
    message = "could not be scored: nothing (2 of 2), white space (2 of 2): rewards.own: crash"
    assert found == [Finding(message, False)]


def test_a_right_answer_that_is_judged_wrong_is_to_be_looked_at() -> None:
    tricks = [trick(HONEST, totals=(1.0, 1.0))]
    (finding,) = findings(tricks)
    assert not finding.is_accepted
    assert "the right answer: judged wrong, 2 times" in finding.message
    assert not is_conclusive(tricks)


def test_only_a_scored_right_answer_is_something_to_compare_with() -> None:
    assert is_conclusive([HONEST_VERDICT, trick(totals=(float("nan"), 1.0))])
    assert not is_conclusive([trick(HONEST, verdicts=(RIGHT, RIGHT), totals=(float("nan"), 1.0))])


def test_what_is_accepted_comes_first() -> None:
    found = findings([HONEST_VERDICT, trick(seconds=9.0), trick("white space", verdicts=(RIGHT, RIGHT))])
    assert [finding.is_accepted for finding in found] == [True, False]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def test_the_command_prints_a_line_for_each_kind(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables.FOLDER.mkdir(parents=True)
    tables.write_table(tables.FOLDER / "train.parquet", [(one, {}) for one in PROBLEMS])
    assert doctor(2)
    text = capsys.readouterr().out
    assert all(kind in text for kind in completions(PROBLEMS[0], PROBLEMS[1:], USED))
    assert "none is accepted or worth as much as the right answer, on 2 problems" in text
    assert "run `dvc repro grpo` first: it writes logs/completions" in text


def test_the_signal_of_sampled_completions(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables.FOLDER.mkdir(parents=True)
    tables.write_table(tables.FOLDER / "train.parquet", [(one, {}) for one in PROBLEMS])
    Path("logs/completions").mkdir(parents=True)
    for step, texts in (("000000", ("a", "a")), ("000010", (render_target(PROBLEMS[0], USED), "a"))):
        asked = {"problem_id": PROBLEMS[0].id, "question": PROBLEMS[0].question, "answer": "85", "num_tokens": 1}
        pd.DataFrame([asked | {"text": text} for text in texts]).to_parquet(f"logs/completions/{step}.parquet")
    doctor(1)
    text = capsys.readouterr().out
    assert "000010.parquet: questions without signal (all completions worth the same): 0 of 1" in text


FORMAT_ONLY = "rewards:\n  format_exact: {weight: 1.0, options: {points: 1.0}}\n"


@pytest.mark.parametrize(
    ("gold", "rewards", "code", "said"),
    [
        ("85", None, 0, "none is accepted"),
        ("85", FORMAT_ONLY, 1, "ACCEPTED  a wrong answer: worth at least as much as the right answer, 1 of 1"),
        ("tests", None, 1, "no result: the right answer is not judged right with a score"),
    ],
)
def test_only_a_sound_rubric_is_exit_code_0(
    gold: str, rewards: str | None, code: int, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if rewards is not None:
        Path("params.yaml").write_text(with_overlay(Path("params.yaml").read_text(), rewards))
    tables.FOLDER.mkdir(parents=True)
    tables.write_table(tables.FOLDER / "train.parquet", [(replace(PROBLEMS[0], answer=gold), {})])
    with pytest.raises(SystemExit) as ended:
        app(["rewards", "doctor", "--problems", "3"])
    assert (ended.value.code or 0) == code
    assert said in capsys.readouterr().out


def test_without_prepared_problems_it_says_how_to_make_them(project: Path) -> None:
    with pytest.raises(UserError, match="no prepared problems: run `dvc repro prepare`"):
        doctor(2)
