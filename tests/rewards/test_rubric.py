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
from rlvr.types import Answered, Problem, UserError
from support.sandboxed import need_bubblewrap

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

def leaves(completion):
    raise SystemExit

def once(completion):
    return 1 / len(completion)

def reads(completion, extracted):
    return None if extracted is None else float(extracted)

def ported(prompts, completions, answer, **kwargs):
    return [2.0 if gold in c[0]["content"] else 0.0 for c, gold in zip(completions, answer)]

def evaluates(completion):
    return float(eval(completion))

def same(answer, gold):
    return None if gold == "?" else sorted(answer) == sorted(gold)

def broken(answer, gold):
    return {}[answer]
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
        ("leaves", "SystemExit"),
    ],
)
def test_a_function_of_ones_own_that_fails_makes_unscorable(
    function: str, said: str, own: Callable[..., Config]
) -> None:
    scores = score(own(function), [(problem(47, 38, 2), [RIGHT, "y"])])
    assert all(math.isnan(points[0]) for points in scores.points[0] if points[0] is not None)
    assert scores.correct == [[True, False]]
    message = scores.messages[0]
    assert message.startswith("rewards.mine: ") and said in message


def test_one_failure_costs_one_completion(own: Callable[..., Config]) -> None:
    scores = score(own("once"), [(problem(47, 38, 2), ["ab", "", "abcd"])])
    first, second, third = (points[0] for points in scores.points[0])
    assert (first, third) == (0.5, 0.25) and math.isnan(second or 0.0)
    (message,) = scores.messages
    assert message.startswith("rewards.mine: user/mine.py:once: ZeroDivisionError: division by zero (mine.py, line ")


def test_the_extracted_answer_and_the_functions_of_other_trainers(own: Callable[..., Config]) -> None:
    asked = [(problem(47, 38, 2), [RIGHT, "86"])]
    assert score(own("reads"), asked).points == [[[85.0], [None]]]
    assert score(own("ported"), asked).points == [[[2.0], [0.0]]]


def test_a_reward_may_depend_on_the_verdict(make_config: Callable[..., Config]) -> None:
    options = {"tokens": 0, "points": -1.0}
    rewards = {
        f"long_{verdict}": {"function": "max_length", "when": verdict, "weight": 1.0, "options": options}
        for verdict in ("right", "wrong")
    }
    cfg = make_config({"rewards": rewards})
    scores = score(cfg, [(problem(47, 38, 2), [RIGHT, RIGHT.replace(">85<", ">86<"), "86"])])
    assert scores.points == [[[-1.0, None], [None, -1.0], [None, -1.0]]]
    scores = score(make_config({"rewards": rewards}), [(written("?", "3", "three or four")[0], [RIGHT])])
    assert all(math.isnan(points or 0.0) for points in scores.points[0][0])


def test_a_verifier_of_ones_own(own: Callable[..., Config]) -> None:
    reward = {"number_matches": {"weight": 1.0, "options": {"right": 1.0, "wrong": -1.0}}}
    cfg = own("good", rewards=reward, **{"verifiers.answer": "user/mine.py:same"})
    cases = [written("?", "abc", "cab"), written("?", "abd", "cab"), written("?", "x", "?")]
    scores = score(cfg, [(asked, [text]) for asked, text in cases])
    assert scores.points == [[[1.0]], [[-1.0]], [[None]]]
    broken = own("good", rewards=reward, **{"verifiers.answer": "user/mine.py:broken"})
    scores = score(broken, [(cases[0][0], [cases[0][1], "no tags"])])
    assert scores.verdicts[0][0].is_fault and math.isnan(scores.points[0][0][0] or 0.0)
    assert scores.verdicts[0][1].cause == "missing"
    assert "KeyError: 'abc' (mine.py, line" in scores.messages[0]


def test_a_function_that_runs_completions_may_run_in_the_sandbox(own: Callable[..., Config], tmp_path: Path) -> None:
    cfg = own("evaluates")
    need_bubblewrap()
    rewards = {"mine": {"python": "user/mine.py:evaluates", "weight": 1.0, "sandbox": True}}
    cfg = own("evaluates", rewards=rewards, **{"verifiers.function_seconds": 5.0})
    touch = f"open('{tmp_path / 'touched'}', 'w').write('x')"
    scores = score(cfg, [(problem(47, 38, 2), ["2 * 3", touch, f"len(open('{__file__}').read())", "1 / 0"])])
    assert scores.points[0][0] == [6.0]
    assert all(math.isnan(points[0] or 0.0) for points in scores.points[0][1:])
    assert not (tmp_path / "touched").exists()
    assert any("No such file" in message for message in scores.messages)


def test_columns_are_checked_with_what_the_file_says_when_it_runs(own: Callable[..., Config]) -> None:
    cfg = own("good")
    Path("user/late.py").write_text(
        "from functools import partial\ndef f(completion, topic, *, scale): return scale\nhalf = partial(f, scale=0.5)"
    )
    cfg = own("good", rewards={"late": {"python": "user/late.py:half", "weight": 1.0}})
    asked = [Problem("a", "?", "7", "", 1, columns={"topic": "mass", "prompt": "x"})]
    with open_scorer(cfg.rewards, cfg.verifiers, USED) as scorer:
        assert scorer.check_columns(asked) == []
        with pytest.raises(UserError, match=r"rewards.late: user/late.py:half asks for topic, which is neither"):
            scorer.check_columns([Problem("a", "?", "7", "", 1)])
