"""Refuse expressions that would only keep the processor busy until the deadline."""

from __future__ import annotations

import math
import re

from rlvr.verifiers.mathematics.notation import Unreadable

DEPTH = 15  # maximum nesting of brackets; the parser's time grows exponentially with it
DIGITS = 300  # maximum digits of one number
POWER_DIGITS = 10_000  # maximum digits of an exponent that is itself a power

EXPONENT = r"\s*\^\s*[{(\s]*-?\s*(\d+)"
POWER_OF_POWER = re.compile(rf"(?=(?<!\d)(\d+)[\s)}}]*{EXPONENT}[\s)}}]*{EXPONENT})")
HUGE_EXPONENT = re.compile(r"\^[{(\s]*-?\s*\d{5,}")
HUGE_FACTORIAL = re.compile(r"\d{5,}[\s)}]*!|!(?:[\s)}]*!){2,}|[)}]\s*!\s*[)}]\s*!")


def refuse_bombs(text: str) -> None:
    """Raise Unreadable for an expression that would only keep the processor busy until the deadline."""
    depth = deepest = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    if deepest > DEPTH:
        raise Unreadable(f"brackets nested {deepest} deep; at most {DEPTH} are allowed")
    if re.search(rf"\d{{{DIGITS + 1},}}", text):
        raise Unreadable(f"a number of more than {DIGITS} digits")
    plain = text.replace("**", "^")
    if HUGE_EXPONENT.search(plain) or HUGE_FACTORIAL.search(plain):
        raise Unreadable("a huge exponent or factorial")
    for _, base, exponent in POWER_OF_POWER.findall(plain):
        if int(base) > 1 and int(exponent) * math.log10(int(base)) > math.log10(POWER_DIGITS):
            raise Unreadable("a tower of powers")
