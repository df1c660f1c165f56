"""A regular expression that the whole answer must match. Only ever called in a worker: it may backtrack for ever."""

from __future__ import annotations

import re

from rlvr.verifiers.verdict import GOLD, Verdict, fault, right_if


def verify(answer: str, gold: str) -> Verdict:
    """Right when the pattern `gold` (Python's re) matches all of `answer`, spaces around it aside."""
    try:
        pattern = re.compile(gold)
    except (re.error, RecursionError, OverflowError) as error:
        return fault(GOLD, f"the gold {gold[:100]!a} is no regular expression: {error}")
    return right_if(pattern.fullmatch(answer.strip()) is not None)
