"""A reward for true steps: the equations in the reasoning, checked in exact arithmetic."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from rlvr.rewards.sample import Sample

LONGEST = 20_000  # characters of the reasoning that are read
SIDE_CHARACTERS = 100  # read on each side of an equals sign
DEEPEST = 20
LARGEST_BITS = 4096

_TOKEN = re.compile(r" *(?:(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(%?)|(.))")
_TRAILING = re.compile(r"(?:[\d%+\-*/^() ]|[.,](?=\d))*$")
_OPERATOR = re.compile(r" *(?:[*/^]|[+-] )|[+-]")  # not the sign of a number, as in `so -3 + 4`
_PLAIN = re.compile(r" *-? *(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?")
_NOTATION = str.maketrans("×·∙⋅÷−–", "****/--", "$€£")
_TIMES = re.compile(r"(?<=[\d)]) ?x ?(?=[\d(])")


def step_check(sample: Sample, *, points: float) -> float | None:
    """`points` if the answer is right and every equation in the reasoning is true, else 0; None without an equation.

    True equations next to a wrong answer or a false equation earn nothing, since anyone can write `1+1=2`.
    An equation has numbers and + - * / × · ÷ ^ on both sides of `=`, at least one operator, and no letters:
    `12*3 = 36`, `<<12*3=36>>`, `12 × 3 = 36`. The check is exact, except that a plain right side with decimals may be
    rounded: 10 / 3 = 3.33. It reads the first 20,000 characters, and 100 on each side of `=`. Source: the
    calculator annotations of GSM8K (Cobbe et al., arXiv 2110.14168).
    """
    steps = list(stated_steps((sample.reading.reasoning or sample.completion.text)[:LONGEST]))
    if not steps:
        return None
    if sample.verdict.is_fault:
        return math.nan
    return points if sample.verdict.outcome != "wrong" and all(steps) else 0.0


def stated_steps(text: str) -> Iterator[bool]:
    """For each equation in `text` whether it is true."""
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/").replace("**", "^")
    for line in text.translate(_NOTATION).splitlines():
        parts = _TIMES.sub("*", line).split("=")
        for before, after in pairwise(parts):
            is_true = _is_true(before[-SIDE_CHARACTERS:], after[:SIDE_CHARACTERS])
            if is_true is not None:
                yield is_true


def _is_true(before: str, after: str) -> bool | None:
    """Whether the equation is true; None if it is not an equation between numbers."""
    left, right = _last_expression(before), _first_expression(after)
    if left is None or right is None or not (left[1] or right[1]):
        return None
    (stated, has_operator, length), decimals = right, _PLAIN.match(after)
    if after[length : length + 1].isalpha():  # 2x
        return None
    if left[0] is None or stated is None:
        return False
    rounding = Fraction(1, 2 * 10 ** len(decimals[1])) if decimals and decimals[1] and not has_operator else 0
    return abs(left[0] - stated) <= rounding


Found = tuple[Fraction | None, bool, int]  # the value (None: division by zero), whether it computes, its length


def _last_expression(text: str) -> Found | None:
    match = _TRAILING.search(text)
    run = match[0] if match else ""
    lead = text[: len(text) - len(run)].rstrip()
    while run.count("(") > run.count(")"):
        run = run.partition("(")[2]
        lead = ""
    if lead[-1:].isalpha() and _OPERATOR.match(run):
        return None
    run = run.strip()
    expression = _first_expression(run)
    return expression if expression and expression[2] == len(run) else None


def _first_expression(text: str) -> Found | None:
    """The longest arithmetic expression at the start of `text`; None without one, or when its value would be huge."""
    try:
        return _sum(text, 0, 0)
    except _Refused:
        return None


class _Refused(Exception):
    """No expression at this place, or one too large to compute."""


def _sum(text: str, at: int, depth: int) -> Found:
    value, computes, at = _product(text, at, depth)
    while (operator := _next(text, at)) in ("+", "-"):
        try:
            other, _, end = _product(text, _after(text, at), depth)
        except _Refused:
            break
        if value is not None:
            value = None if other is None else (value + other if operator == "+" else value - other)
        computes, at = True, end
    return value, computes, at


def _product(text: str, at: int, depth: int) -> Found:
    value, computes, at = _power(text, at, depth)
    while (operator := _next(text, at)) in ("*", "/"):
        try:
            other, _, end = _power(text, _after(text, at), depth)
        except _Refused:
            break
        if operator == "/":
            other = 1 / other if other else None
        value = None if value is None or other is None else _bounded(value * other)
        computes, at = True, end
    return value, computes, at


def _power(text: str, at: int, depth: int) -> Found:
    value, computes, at = _atom(text, at, depth)
    if _next(text, at) != "^":
        return value, computes, at
    exponent, _, end = _atom(text, _after(text, at), depth)
    if value is None or exponent is None or exponent.denominator != 1 or not 0 <= exponent <= LARGEST_BITS:
        raise _Refused
    if max(value.numerator.bit_length(), value.denominator.bit_length()) * int(exponent) > LARGEST_BITS:
        raise _Refused
    return Fraction(value ** int(exponent)), True, end


def _atom(text: str, at: int, depth: int) -> Found:
    match = _TOKEN.match(text, at)
    if match is None or depth > DEEPEST:
        raise _Refused
    digits, percent, character = match.groups()
    if digits:
        value = Fraction(digits.replace(",", ""))
        return (value / 100 if percent else value), False, match.end()
    if character in ("+", "-"):
        inner, computes, end = _power(text, match.end(), depth + 1)
        return (-inner if inner is not None and character == "-" else inner), computes, end
    if character != "(":
        raise _Refused
    inner, computes, end = _sum(text, match.end(), depth + 1)
    if _next(text, end) != ")":
        raise _Refused
    return inner, computes, _after(text, end)


def _next(text: str, at: int) -> str:
    return text[at:].lstrip(" ")[:1]


def _after(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip(" ")) + 1


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > LARGEST_BITS:
        raise _Refused
    return value
