"""What a generated task may not hand over."""

from __future__ import annotations

import re

import pytest

from rlvr.tasks.pools import check_distinct
from rlvr.types import Problem, UserError


def questions(*texts: str) -> list[Problem]:
    return [Problem(text, text, "1", "", 1) for text in texts]


def test_different_questions_pass() -> None:
    check_distinct(questions("a", "b", "1+2", "1-2"))


@pytest.mark.parametrize("again", ["a", " A ", "A\n", "a?"])
def test_the_same_question_twice_is_refused(again: str) -> None:
    with pytest.raises(UserError, match=f"^1 question.* occur more than once, for example {re.escape(repr(again))}"):
        check_distinct(questions("a", "b", again))
