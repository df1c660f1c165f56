"""Generated sums: every step is true, and splits share no question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.config import Config
from rlvr.problems.selection import TokenLimits, select, split_sizes
from rlvr.tasks import TASKS
from rlvr.tasks.arithmetic import problem, working
from rlvr.types import Problem, UserError

SMALL = {
    "prepare.train_problems": 40,
    "prepare.sft_problems": 20,
    "prepare.dev_problems": 10,
    "prepare.evaluation_problems": 12,
}


Splits = dict[str, list[Problem]]
NOTHING: dict[str, Any] = {"prompt_tokens": [], "target": "some", "target_tokens": []}


@pytest.fixture
def load(make_config: Callable[..., Config]) -> Callable[..., Splits]:
    """The splits of these sizes and levels."""

    def make(levels: tuple[int, int] = (2, 2), *, seed: int = 0, **counts: int) -> Splits:
        changes = {f"prepare.{name}_problems": count for name, count in counts.items()}
        changes |= {"prepare.arithmetic.min_level": levels[0], "prepare.arithmetic.max_level": levels[1]}
        prepare = make_config(SMALL | changes).prepare
        splits = select(
            TASKS["arithmetic"](prepare, seed), split_sizes(prepare), lambda _: NOTHING, TokenLimits(1, 1, False)
        )
        return {name: [p for p, _ in split.rows] for name, split in splits.items()}

    return make


def check_working(a: int, b: int) -> None:
    """Each step adds two digits and the carry of the step before, and the ones of the steps are the sum."""
    steps = [tuple(map(int, re.fullmatch(r"(\d)\+(\d)\+(\d)=(\d+)", s).groups())) for s in working(a, b).split(";")]  # type: ignore[union-attr]
    carry, total = 0, 0
    for i, (x, y, c, result) in enumerate(steps):
        assert (x, y, c) == (a // 10**i % 10, b // 10**i % 10, carry)
        assert result == x + y + c
        carry, total = result // 10, total + result % 10 * 10**i
    assert total + carry * 10 ** len(steps) == a + b


def test_by_hand() -> None:
    p = problem(47, 38, 2)
    assert (p.id, p.question, p.answer, p.level) == ("47+38", "What is 47+38?", "85", 2)
    assert p.working == "7+8+0=15;4+3+1=8"
    assert working(99, 1) == "9+1+0=10;9+0+1=10"


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_working_is_true_for_any_two_numbers(a: int, b: int) -> None:
    check_working(a, b)


@pytest.mark.parametrize("level", range(1, 10))
def test_problems_of_every_level_are_true(level: int, load: Callable[..., Splits]) -> None:
    for _, problems in load((level, level), train=30, sft=5, dev=5, evaluation=5).items():
        for p in problems:
            a, b = map(int, p.id.split("+"))
            assert p.question == f"What is {a}+{b}?"
            assert len(str(a)) == len(str(b)) == level == p.level
            assert p.answer == str(a + b)
            assert p.working == working(a, b)
            check_working(a, b)


def test_splits_have_their_sizes_and_share_no_question(load: Callable[..., Splits]) -> None:
    splits = load((1, 3))
    assert {name: len(problems) for name, problems in splits.items()} == {
        "train": 40,
        "sft": 20,
        "dev": 10,
        "evaluation": 12,
    }
    questions = Counter(p.question for _, problems in splits.items() for p in problems)
    assert max(questions.values()) == 1


def test_levels_are_mixed_evenly(load: Callable[..., Splits]) -> None:
    splits = load((2, 4), train=600, sft=300, dev=300, evaluation=300)
    for name, problems in splits.items():
        levels = Counter(p.level for p in problems)
        assert set(levels) == {2, 3, 4}
        assert min(levels.values()) > 0.25 * len(problems), name
    everything = Counter(p.level for _, problems in splits.items() for p in problems)
    assert set(everything.values()) == {500}


def test_all_sums_of_a_level_can_be_asked_for(load: Callable[..., Splits]) -> None:
    splits = load((1, 1), train=51, sft=10, dev=10, evaluation=10)
    assert {p.id for _, problems in splits.items() for p in problems} == {
        f"{a}+{b}" for a in range(1, 10) for b in range(1, 10)
    }


def test_too_few_sums_are_refused_with_the_remedy(load: Callable[..., Splits]) -> None:
    with pytest.raises(UserError, match=r"level 1 has 81 sums, but 82 problems over 1 level"):
        load((1, 1), train=52, sft=10, dev=10, evaluation=10)
    with pytest.raises(UserError, match=r"level 1 has 81 sums.*ask for fewer problems or raise .*min_level"):
        load((1, 2), train=200)


def test_the_seed_alone_decides(load: Callable[..., Splits]) -> None:
    assert load() == load()
    assert load()["evaluation"] != load(seed=1)["evaluation"]
    assert {p.id for p in load()["train"]} != {p.id for p in load(seed=1)["train"]}
