"""Points for right and wrong."""

from __future__ import annotations

import math

from rlvr.verifiers.verdict import Verdict


def by_verdict(verdict: Verdict, *, right: float, wrong: float) -> float | None:
    """`right` or `wrong`; NaN if the verifier failed, None if it does not apply."""
    if verdict.outcome == "not_applicable":
        return None
    if verdict.is_fault:
        return math.nan
    return right if verdict.is_right else wrong
