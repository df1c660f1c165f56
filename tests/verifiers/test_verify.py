"""Verdicts at once or from workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from rlvr.config import Config
from rlvr.types import Problem
from rlvr.verifiers.verdict import RIGHT
from rlvr.verifiers.verify import make_verifier, open_verifier, open_workers, settle


def problem(gold: str, question: str = "What?") -> Problem:
    return Problem("p", question, gold, "", 1)


@pytest.mark.parametrize(
    "name, gold, right, wrong",
    [("number", "1234", "1,234", "1235"), ("text", "Paris", "paris.", "Rome"), ("math", "1/2", "0.5", "0.6")],
)
def test_verdicts(name: str, gold: str, right: str, wrong: str, make_config: Callable[..., Config]) -> None:
    asked = problem(gold)
    with open_verifier(make_config({"verifiers.answer": name}).verifiers) as verify:
        verdicts = verify([(right, asked), (wrong, asked), (None, asked), (right, asked)])
    assert [verdict.is_right for verdict in verdicts] == [True, False, False, True]
    assert [verdict.cause for verdict in verdicts] == [None, None, "missing", None]


def test_an_isolated_verifier_is_asked_once_for_the_same(make_config: Callable[..., Config]) -> None:
    settings = make_config().verifiers
    with open_workers(settings) as workers:
        verifier = make_verifier(settings, "pattern", workers)
        first, again, other = (verifier.ask(answer, problem("a+")) for answer in ("aa", "aa", "ab"))
        assert isinstance(first, Future) and first is again is not other
        verifier.forget()
        assert verifier.ask("aa", problem("a+")) is not first


def test_a_formula_of_the_question_is_not_an_answer(make_config: Callable[..., Config]) -> None:
    asked = problem("91", "Compute $10^2-3^2$.")
    with open_verifier(make_config({"verifiers.answer": "math"}).verifiers) as verify:
        found = verify([("10^2 - 3^2", asked), ("10^2 - 3^2", problem("91", "Compute."))])
    assert [(verdict.outcome, verdict.cause) for verdict in found] == [("wrong", "echo"), ("right", None)]


@pytest.mark.parametrize(
    "name, good, bad", [("number", "1,250.00", "some"), ("pattern", "a+", "("), ("text", "?", None)]
)
def test_a_gold_is_read_by_itself(name: str, good: str, bad: str | None, make_config: Callable[..., Config]) -> None:
    settings = make_config().verifiers
    with open_workers(settings) as workers:
        verifier = make_verifier(settings, name, workers)
        assert settle(verifier.ask_gold(good)) == RIGHT
        assert bad is None or settle(verifier.ask_gold(bad)).is_fault


@pytest.mark.deadline
def test_a_busy_machine_does_not_make_an_answer_wrong(make_config: Callable[..., Config]) -> None:
    """The worker gets a small share of the processor: its limit is of the CPU time that it used itself."""
    spin = [sys.executable, "-S", "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(4 * (os.cpu_count() or 1))]
    try:
        with open_verifier(make_config({"verifiers.answer": "math", "verifiers.seconds": 1.0}).verifiers) as verify:
            found = verify([(f"(x+{n})^6", problem(f"({n}+x)^6")) for n in range(3)])
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert [verdict.outcome for verdict in found] == ["right"] * 3
