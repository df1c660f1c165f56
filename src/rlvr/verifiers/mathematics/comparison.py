"""Compare an answer with a gold."""

from __future__ import annotations

import logging
import re

from math_verify import verify as equals
from sympy import Basic, Eq, Expr, Float, MatrixBase, UnevaluatedExpr
from sympy.core.random import seed

from rlvr.verifiers.mathematics.echo import is_echo
from rlvr.verifiers.mathematics.notation import PERCENT, Unreadable, plain_text, same_text, unwrap
from rlvr.verifiers.mathematics.parsing import read
from rlvr.verifiers.verdict import ECHO, GOLD, RIGHT, UNPARSABLE, Verdict, fault, right_if, wrong

SMALL = 0.001
ROUNDED, EXACT = 0.01, 1e-9  # relative differences of the sides of an equation
NAMED = re.compile(r"[A-Za-z]\w*=")  # x = 2 + 3 = 5, where the last value is the answer
BASE = re.compile(r"-?[0-9A-Z.]+_[{(]*(\d+|\\text\{\w+\})[)}]*")

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns about every missing time limit


def verify(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if math-verify finds `answer` equal to `gold`: 50 % equals 0.5 and 50, x = 3 equals 3, and so on.

    The gold's own text is right before anything is parsed. Decimals are compared to 6 places; numbers below 0.001 must
    also agree to a relative difference of 0.001. Units of measure after a number are dropped. A formula copied from the
    question is wrong unless it is written as the gold is. Source: https://github.com/huggingface/Math-Verify
    """
    if same_text(answer, gold):
        return RIGHT
    try:
        expected = read(gold)
    except Unreadable:
        return check_gold(gold)
    try:
        expression = read(answer)
    except Unreadable as error:
        return wrong(UNPARSABLE, str(error))
    if not (_are_equal(expression, expected) or _is_same_percentage(answer, gold)):
        return right_if(False)
    if not NAMED.match(plain_text(answer)) and _has_false_equation(expression):
        return Verdict("wrong", None, "the answer is a false equation")
    if (base := _base(answer)) is not None and base != _base(gold):
        return Verdict("wrong", None, "the answer is written in another base")
    if is_echo(answer, gold, question):
        return wrong(ECHO, "the answer copies a formula of the question")
    return RIGHT


def check_gold(gold: str) -> Verdict:
    """A fault unless `gold` can be read and equals itself."""
    try:
        expected = read(gold)
    except Unreadable as error:
        return fault(GOLD, f"the gold {gold[:100]!a} is not mathematics: {error}")
    if not _are_equal(expected, expected):
        return fault(GOLD, f"the gold {gold[:100]!a} does not equal itself, as the parser reads it")
    return RIGHT


def _is_same_percentage(answer: str, gold: str) -> bool:
    """Whether one of both says percent and the numbers are the same, 1 or more: 12.5 % and 12.5, not 0.5 % and 0.5."""
    if bool(PERCENT.search(answer)) == bool(PERCENT.search(gold)):
        return False
    try:
        values = [read(PERCENT.sub("", unwrap(text))) for text in (answer, gold)]
    except Unreadable:
        return False
    return all(value.is_number and value.is_real and float(value) >= 1 for value in values) and _are_equal(*values)


def _base(text: str) -> str | None:
    """The base that a number such as 120_3 is written in."""
    match = BASE.fullmatch(plain_text(text))
    return match[1] if match else None


def _has_false_equation(answer: Basic | MatrixBase) -> bool:
    """Whether a number equals another in it, as in 2 + 2 = 5; a rounded one such as 1/3 = 0.333 is the same."""
    return any(_is_false(equation) for equation in answer.atoms(Eq))


def _is_false(equation: Eq) -> bool:
    left, right = (side.replace(UnevaluatedExpr, lambda inner: inner) for side in equation.args)  # those of percents
    if not all(side.is_number and side.is_real for side in (left, right)):
        return False
    tolerance = ROUNDED if equation.atoms(Float) else EXACT
    return bool(abs(float(left - right)) > tolerance * abs(float(right)))


def _are_equal(answer: Basic | MatrixBase, gold: Basic | MatrixBase) -> bool:
    seed(0)  # sympy tries random numbers: the verdict must not depend on earlier calls
    is_equal = equals(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)
    return is_equal and not _differ_in_size(answer, gold)


def _differ_in_size(answer: Basic | MatrixBase, gold: Basic | MatrixBase) -> bool:
    """Whether both are numbers below 0.001 that differ in three digits, though not in six decimal places."""
    if not all(isinstance(side, Expr) and side.is_number and side.is_real for side in (answer, gold)):
        return False
    answer_value, gold_value = float(answer), float(gold)
    size = max(abs(answer_value), abs(gold_value))
    return size < SMALL and abs(answer_value - gold_value) > SMALL * size


verify("$1$", "2")  # builds the parser's tables while the module is loaded, before any deadline
