"""Scores of completions: points by function, verdicts beside them, and what happens when a part of it fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.advantage import total_rewards
from rlvr.chat import TAGS, render_target
from rlvr.config import Config
from rlvr.rewards import Scores, open_scorer
from rlvr.tasks.arithmetic import problem
from rlvr.types import Answered, Problem

USED = TAGS["working_out"]
CONTROL = {"random": {"weight": 1.0, "options": {"low": 0.0, "high": 1.0}}}
RIGHT = render_target(problem(47, 38, 2), USED)

Completions = Sequence[tuple[Problem, Sequence[str]]]


def score(cfg: Config, completions: Completions) -> Scores:
    with open_scorer(cfg.rewards, cfg.verifiers, USED) as scorer:
        for asked, texts in completions:
            scorer.submit(asked, [Answered(text, 1, False) for text in texts])
        return scorer.finish()


def written(question: str, answer: str, gold: str) -> tuple[Problem, str]:
    """A problem, and the well-formed completion with `answer`."""
    asked = Problem("p", question, gold, "so it is", 1)
    return asked, render_target(Problem("p", question, answer, "so it is", 1), USED)


def test_points_weights_and_verdicts(make_config: Callable[..., Config]) -> None:
    near, far = RIGHT.replace(">85<", ">80<"), RIGHT.replace(">85<", ">12<")
    cfg = make_config({"rewards.format_exact.weight": 0.0, "rewards.number.weight": -2.0})
    scores = score(cfg, [(problem(47, 38, 2), [RIGHT, near]), (problem(20, 60, 2), [far, "80"])])
    assert scores.names == ("format_exact", "format_approximate", "answer", "number")
    assert scores.weights == (0.0, 1.0, 1.0, -2.0)
    assert scores.points == [
        [[3.0, 2.0, 5.0, 3.5], [3.0, 2.0, 2.0, -1.5]],
        [[3.0, 2.0, -2.5, -1.5], [0.0, -4.0, -2.0, 0.0]],
    ]
    assert scores.correct == [[True, False], [False, False]]
    assert [verdict.cause for verdict in scores.verdicts[1]] == [None, "missing"]
    assert scores.messages == ()
    reward_PG = total_rewards(torch.tensor(scores.points, dtype=torch.float64), scores.weights)
    assert reward_PG.tolist() == [[2 + 5 - 7, 2 + 2 + 3], [2 - 2.5 + 3, -4 - 2]]


def test_the_verdict_does_not_depend_on_the_rewards(make_config: Callable[..., Config]) -> None:
    scores = score(make_config({"rewards": CONTROL}), [(problem(47, 38, 2), [RIGHT, RIGHT + "."])])
    assert scores.names == ("random",)
    assert scores.correct == [[True, False]]


def test_what_was_submitted_before_is_not_scored_again(make_config: Callable[..., Config]) -> None:
    cfg = make_config({"rewards": CONTROL})
    with open_scorer(cfg.rewards, cfg.verifiers, USED) as scorer:
        for count in (1, 2):
            for _ in range(count):
                scorer.submit(problem(47, 38, 2), [Answered(RIGHT, 1, False)])
            assert len(scorer.finish().points) == count


def test_a_function_under_two_names_and_with_another_verifier(make_config: Callable[..., Config]) -> None:
    options = {"right": 1.0, "wrong": -1.0}
    rewards = {
        "as_text": {"function": "number_matches", "verifier": "exact", "weight": 1.0, "options": options},
        "as_number": {"function": "number_matches", "weight": 1.0, "options": options},
    }
    asked, text = written("how many?", "1,234", "1234")
    scores = score(make_config({"rewards": rewards}), [(asked, [text])])
    assert scores.points == [[[-1.0, 1.0]]]
    assert scores.correct == [[True]]


def test_an_isolated_verifier_judges_in_workers(make_config: Callable[..., Config]) -> None:
    cfg = make_config({"rewards": CONTROL, "verifiers.answer": "math"})
    cases = [("1/2", r"\frac{1}{2}"), ("0.25", r"\frac{1}{2}")] * 3  # each pair is judged once
    scores = score(cfg, [(asked, [text]) for answer, gold in cases for asked, text in [written("?", answer, gold)]])
    assert scores.correct == [[True], [False]] * 3


def test_an_answer_that_breaks_its_judge_is_wrong_with_its_cause(make_config: Callable[..., Config]) -> None:
    cfg = make_config({"rewards": CONTROL, "verifiers.answer": "pattern", "verifiers.seconds": 1.0})
    asked, text = written("?", "a" * 60 + "!", "(a+)+b")
    good = written("?", "ab", "(a+)+b")[1]
    scores = score(cfg, [(asked, [text, good])])
    assert scores.correct == [[False, True]]
    assert scores.verdicts[0][0].cause == "timeout"
    assert all(not math.isnan(points[0]) for points in scores.points[0] if points[0] is not None)


def test_a_gold_that_cannot_be_read_is_our_fault(make_config: Callable[..., Config]) -> None:
    rewards = {"number_matches": {"weight": 1.0, "options": {"right": 1.0, "wrong": -1.0}}}
    asked, text = written("?", "3", "three or four")
    scores = score(make_config({"rewards": rewards}), [(asked, [text])])
    assert scores.verdicts[0][0].is_fault and math.isnan(scores.points[0][0][0] or 0.0)
    assert "p: gold" in scores.messages[0]


SOURCE = """
import time

def good(completion, answer):
    return float(len(completion)) if answer != "8" else None

def raises(completions):
    raise RuntimeError("no such luck")

def hangs(completions):
    time.sleep(600)

def nan(completions):
    return [float("nan")] * len(completions)

def text(completions):
    return ["good"] * len(completions)

def short(completions):
    return [1.0]
"""


@pytest.fixture
def own(make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """A rubric with one function of user/mine.py."""
    (tmp_path / "user").mkdir()
    (tmp_path / "user/mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)

    def make(function: str, **changes: Any) -> Config:
        rewards = {"mine": {"python": f"user/mine.py:{function}", "weight": 1.0}}
        return make_config({"rewards": rewards, "verifiers.function_seconds": 2.0} | changes)

    return make


def test_a_function_of_ones_own(own: Callable[..., Config]) -> None:
    asked = [Problem("a", "?", "7", "", 1), Problem("b", "?", "8", "", 1)]
    scores = score(own("good"), [(one, ["x", "yyy"]) for one in asked])
    assert scores.points == [[[1.0], [3.0]], [[None], [None]]]
    assert scores.messages == ()


@pytest.mark.parametrize(
    "function, said",
    [
        ("raises", "no such luck"),
        ("hangs", "timeout"),
        ("nan", "nan"),
        ("text", "good"),
        ("short", "2"),
    ],
)
def test_a_function_of_ones_own_that_fails_makes_unscorable(
    function: str, said: str, own: Callable[..., Config]
) -> None:
    scores = score(own(function), [(problem(47, 38, 2), [RIGHT, "y"])])
    assert all(math.isnan(points[0]) for points in scores.points[0] if points[0] is not None)
    assert scores.correct == [[True, False]]
    (message,) = scores.messages
    assert message.startswith("rewards.mine: ") and said in message
