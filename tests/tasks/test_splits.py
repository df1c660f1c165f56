"""A question may be asked once, in one split."""

from __future__ import annotations

import pytest

from rlvr.tasks import Splits
from rlvr.tasks.splits import check_disjoint
from rlvr.types import Problem, UserError


def questions(*texts: str) -> list[Problem]:
    return [Problem(text, text, "1", "", 1) for text in texts]


def test_different_questions_pass() -> None:
    check_disjoint(Splits(questions("a", "b"), questions("c"), questions("d"), questions("e")))


@pytest.mark.parametrize("again", ["a", " A ", "A\n"])
@pytest.mark.parametrize("split", ["sft", "dev", "evaluation"])
def test_the_same_question_in_two_splits_is_refused_by_name(split: str, again: str) -> None:
    """White space and case make no other question."""
    parts = {"train": questions("a"), "sft": questions("c"), "dev": questions("d"), "evaluation": questions("e")}
    parts[split] = [*parts[split], *questions(again)]
    with pytest.raises(UserError, match=rf"1 question\(s\) occur more than once .*'a' in train, {split}"):
        check_disjoint(Splits(**parts))


def test_the_same_question_twice_in_a_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 question\(s\) occur more than once .*in train, train"):
        check_disjoint(Splits(questions("a  b", "a b", "x", "x"), questions("c"), questions("d"), questions("e")))
