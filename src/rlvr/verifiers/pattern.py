"""A regular expression that the whole answer must match. Only called in a worker, since it may backtrack forever."""

from __future__ import annotations

import re

from rlvr.verifiers.verdict import GOLD, Verdict, fault, right_if


def verify(answer: str, gold: str) -> Verdict:
    """Right if the pattern `gold` (Python's re) matches all of the stripped `answer`."""
    try:
        pattern = re.compile(gold)
    except (re.error, RecursionError, OverflowError) as error:
        return fault(GOLD, f"the gold {gold[:100]!a} is not a regular expression: {error}")
    return right_if(pattern.fullmatch(answer.strip()) is not None)
