"""Compare two numbers in exact arithmetic."""

from __future__ import annotations

import re
from fractions import Fraction

from rlvr.verifiers.number.reading import Number, read
from rlvr.verifiers.verdict import GOLD, RIGHT, UNPARSABLE, Verdict, fault, right_if, wrong

DECIMAL_COMMA = re.compile(r"[-+−]?\d+,(?:\d{1,2}|\d{4,})")  # 1,234 may be a thousand


def verify(answer: str, gold: str, *, tolerance: float) -> Verdict:
    """Right if |answer − gold| ≤ tolerance · |gold|, in exact arithmetic; a tolerance of 0 requires equality.

    A percent sign counts as a unit or as a hundredth: 50% is right for the golds 50 and 0.5, and vice versa. A gold
    that is not a number is a fault.
    """
    expected = read(gold)
    if expected is None:
        return check_gold(gold, tolerance=tolerance)
    number = read(answer)
    if number is None:
        return wrong(UNPARSABLE, "the answer is not a number, or more than one")
    return right_if(_near(number, expected, tolerance))


def check_gold(gold: str, *, tolerance: float) -> Verdict:
    """A fault unless `gold` is a number, whatever the tolerance."""
    if DECIMAL_COMMA.fullmatch(gold.strip()):
        return fault(
            GOLD, f"the gold {gold[:80]!r} has a decimal comma: write a point, {gold.strip().replace(',', '.')}"
        )
    if read(gold) is None:
        return fault(
            GOLD, f"the gold {gold[:80]!r} is not a number; for words use the verifier text, for formulas math"
        )
    return RIGHT


def _near(number: Number, expected: Number, tolerance: float) -> bool:
    if _within(number.value, expected.value, tolerance):
        return True
    if number.is_percent == expected.is_percent:
        return False
    return _within(number.share, expected.share, tolerance)


def _within(value: Fraction, expected: Fraction, tolerance: float) -> bool:
    if value == expected or not tolerance:
        return value == expected
    return abs(value - expected) <= Fraction(repr(tolerance)) * abs(expected)
