"""A regular expression that the whole answer must match. Only called in a worker, since it may backtrack forever."""

from __future__ import annotations

import re

from rlvr.verifiers.verdict import GOLD, RIGHT, Verdict, fault, right_if


def verify(answer: str, gold: str) -> Verdict:
    """Right if the pattern `gold` (Python's re) matches all of the stripped `answer`."""
    checked = check_gold(gold)
    return right_if(re.fullmatch(gold, answer.strip()) is not None) if checked.is_right else checked


def check_gold(gold: str) -> Verdict:
    """A fault unless `gold` is a regular expression."""
    try:
        re.compile(gold)
    except (re.error, RecursionError, OverflowError) as error:
        return fault(GOLD, f"the gold {gold[:100]!a} is not a regular expression: {error}")
    return RIGHT
