"""Splits out of pools: their sizes, and no question twice."""

from __future__ import annotations

import pytest

from rlvr.selection import select
from rlvr.tasks import Pools
from rlvr.types import Problem, UserError

WANTED: dict[str, int | None] = {"train": 4, "sft": 3, "dev": 2, "evaluation": 2}


def problems(*names: str) -> list[Problem]:
    return [Problem(name, f"What is {name}?", "1", "because", 1) for name in names]


def numbered(start: int, stop: int) -> list[Problem]:
    return problems(*map(str, range(start, stop)))


def ids(splits: dict[str, list[Problem]]) -> dict[str, list[str]]:
    return {name: [p.id for p in found] for name, found in splits.items()}


def test_one_pool_is_dealt_from_the_front() -> None:
    splits, left_out = select(Pools(numbered(0, 20), None, {}), WANTED)
    assert ids(splits) == {
        "train": ["7", "8", "9", "10"],
        "sft": ["4", "5", "6"],
        "dev": ["2", "3"],
        "evaluation": ["0", "1"],
    }
    assert list(splits) == list(WANTED)
    assert left_out == {name: {} for name in WANTED}


def test_a_held_out_pool_is_for_evaluation_alone() -> None:
    splits, _ = select(Pools(numbered(0, 20), numbered(50, 60), {}), WANTED)
    assert ids(splits)["evaluation"] == ["50", "51"]
    assert ids(splits)["dev"] == ["0", "1"]


def test_null_takes_all_that_are_left() -> None:
    splits, _ = select(Pools(numbered(0, 20), None, {}), WANTED | {"train": None})
    assert ids(splits)["train"] == [str(i) for i in range(7, 20)]


def test_repeated_questions_are_left_out_counted_and_replaced() -> None:
    evaluation = problems("e", "E", "f", "g")
    training = [*problems("a", "f", "b", "b", "c"), *numbered(0, 9)]
    splits, left_out = select(Pools(training, evaluation, {}), WANTED)
    assert ids(splits) == {
        "train": ["2", "3", "4", "5"],
        "sft": ["c", "0", "1"],
        "dev": ["a", "b"],
        "evaluation": ["e", "f"],
    }
    assert left_out == {
        "train": {},
        "sft": {"question is in dev": 1},
        "dev": {"question is in evaluation": 1},
        "evaluation": {"question is in evaluation": 1},
    }


@pytest.mark.parametrize("missing", [1, 4])
def test_too_few_are_refused_with_the_numbers(missing: int) -> None:
    with pytest.raises(UserError, match=rf"prepare\.train_problems asks for 4, and there are {4 - missing} of"):
        select(Pools(numbered(0, 11 - missing), None, {}), WANTED)
    with pytest.raises(UserError, match=r"sft_problems asks for 3, .*are 1 of 2 \(left out: .*is in evaluation': 1"):
        select(Pools(problems("a", "b", "e", "c"), problems("e", "f"), {}), WANTED)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(UserError, match=r"train_problems asks for all that are left, and there are 0 of 0"):
        select(Pools(numbered(0, 7), None, {}), WANTED | {"train": None})
