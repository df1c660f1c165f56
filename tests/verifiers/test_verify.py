"""Verdicts at once or from workers, and golds that a verifier cannot read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from rlvr.config import Config
from rlvr.types import Problem, UserError
from rlvr.verifiers.verify import GOLDS_READ, check_golds, make_verifier, open_verifier, open_workers


@pytest.mark.parametrize(
    "name, gold, right, wrong",
    [("number", "1234", "1,234", "1235"), ("text", "Paris", "paris.", "Rome"), ("math", "1/2", "0.5", "0.6")],
)
def test_verdicts(name: str, gold: str, right: str, wrong: str, make_config: Callable[..., Config]) -> None:
    with open_verifier(make_config({"verifiers.answer": name}).verifiers) as verify:
        verdicts = verify([(right, gold), (wrong, gold), (None, gold), (right, gold)])
    assert [verdict.is_right for verdict in verdicts] == [True, False, False, True]
    assert [verdict.cause for verdict in verdicts] == [None, None, "missing", None]


def test_an_isolated_verifier_is_asked_once_for_the_same(make_config: Callable[..., Config]) -> None:
    settings = make_config().verifiers
    with open_workers(settings) as workers:
        verifier = make_verifier(settings, "pattern", workers)
        first, again, other = (verifier.ask(answer, "a+") for answer in ("aa", "aa", "ab"))
        assert isinstance(first, Future) and first is again is not other
        verifier.forget()
        assert verifier.ask("aa", "a+") is not first


def problems(*golds: str) -> list[Problem]:
    return [Problem(f"p{i}", f"Question {i}?", gold, "", 1) for i, gold in enumerate(golds)]


def test_golds_that_cannot_be_read_are_refused(make_config: Callable[..., Config]) -> None:
    settings = make_config().verifiers
    check_golds(settings, problems("1", "2,000", "-3/4"))
    with pytest.raises(
        UserError, match=r"number cannot read the answer of 2 of 3 problems, the first p1 \('Question 1\?'"
    ):
        check_golds(settings, problems("1", "Paris", "Rome"))
    check_golds(make_config({"verifiers.answer": "text"}).verifiers, problems("1", "Paris", "Rome"))


def test_of_an_isolated_verifier_some_golds_are_read(make_config: Callable[..., Config]) -> None:
    settings = make_config({"verifiers.answer": "pattern"}).verifiers
    with pytest.raises(UserError, match=f"1 of {GOLDS_READ} problems"):
        check_golds(settings, problems("(", *["a"] * 100))


def test_the_solution_stands_for_the_answer(make_config: Callable[..., Config]) -> None:
    tests = '[{"call": "f", "args": [1], "result": 2}]'
    asked = Problem("p", "Add one.", tests, "", 1, "def f(x):\n    return x + 1")
    check_golds(make_config({"verifiers.answer": "python", "verifiers.sandbox": "rlimits-only"}).verifiers, [asked])
