"""Every verifier and reward function does what its examples say, and docs/rewards.md shows those examples."""

from __future__ import annotations

from importlib import import_module

import pytest

from make.rewards import PAGE, filled
from rlvr.config.scoring import check_options
from rlvr.rewards.functions import FUNCTIONS, check_values
from rlvr.verifiers import VERIFIERS, Verdict
from support import reward_examples, verifier_examples
from support.sandboxed import need_bubblewrap


def verdict(name: str, answer: str, gold: str) -> Verdict:
    module, _, function = VERIFIERS[name].target.partition(":")
    found: Verdict = getattr(import_module(module), function)(answer, gold, **verifier_examples.EXAMPLES[name].options)
    return found


@pytest.mark.parametrize("name", verifier_examples.EXAMPLES)
def test_verifiers(name: str) -> None:
    examples = verifier_examples.EXAMPLES[name]
    if name == "python":
        need_bubblewrap()
    assert len(examples.right) >= 3 and len(examples.wrong) >= 3
    assert [case for case in examples.right if verdict(name, *case).outcome != "right"] == []
    assert [case for case in examples.wrong if verdict(name, *case).outcome != "wrong"] == []


@pytest.mark.parametrize("name", reward_examples.EXAMPLES)
def test_rewards(name: str) -> None:
    examples = reward_examples.EXAMPLES[name]
    assert len(examples.high) >= 3 and len(examples.low) >= 3
    check_options(f"rewards.{name}", FUNCTIONS[name], examples.options)
    check_values(f"rewards.{name}", name, examples.options, max_completion_tokens=100)
    for case in examples.high + examples.low:
        points = FUNCTIONS[name](case.sample, **examples.options)
        assert points == (None if case.points is None else pytest.approx(case.points, abs=5e-5)), case.shown


def test_nothing_is_without_examples() -> None:
    assert reward_examples.EXAMPLES.keys() == FUNCTIONS.keys()
    assert verifier_examples.EXAMPLES.keys() == VERIFIERS.keys()


def test_the_page_shows_them() -> None:
    page = PAGE.read_text()
    assert page == filled(page), "docs/rewards.md is stale: make docs"
