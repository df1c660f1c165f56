"""The exact value of an arithmetic expression with units, such as `3 boxes * $4`."""

from __future__ import annotations

import re
from fractions import Fraction

from rlvr.verifiers.number.numerals import CURRENCY, NUMERAL, numeral
from rlvr.verifiers.number.words import may_precede

LARGEST_EXPONENT = 20

_SPOKEN = {"times": "*", "plus": "+", "minus": "-", "divided by": "/", "multiplied by": "*", "of": "*"}
_SPOKEN_OPERATOR = re.compile(rf"\b(?:{'|'.join(_SPOKEN)})\b")
_CROSS = re.compile(r"(?<=[\d)%a-z ])\s*[×·xX](?=\s*[\d.($])(?<![a-wyz][xX])")
_START = re.compile(rf"-?[{CURRENCY}(\s-]*\.?\d")
_PER = re.compile(r"/ ?(?=[a-z])")  # $2/egg
_UNIT = re.compile(r"(?<=[\d)%\s])\s*(?:[mgls]|[a-z]{2,})(?:[ -][a-z]{2,})*(?![a-z(])")
_TOKEN = re.compile(rf"\s*(?:(\d+ \d+/\d+)|({NUMERAL}|\.\d+)|([-+*/()^%]))")


def value(text: str) -> Fraction | None:
    """The value of `text` in plain notation, without the words around its numbers; None if it has none.

    A letter that stands for a number (`2x`) and numbers side by side have no value.
    """
    start = _START.search(text)
    if start is None or not may_precede(text[: start.start()].rstrip()):
        return None
    expression = _SPOKEN_OPERATOR.sub(lambda match: _SPOKEN[match[0]], text[start.start() :].lower())
    expression = _CROSS.sub("*", expression)
    for mark in CURRENCY:
        expression = expression.replace(mark, "")
    tokens = _tokens(_UNIT.sub(" ", _PER.sub(" ", expression)).rstrip(" .,:"))
    try:
        return _Parser(tokens).whole() if tokens else None
    except (ValueError, ZeroDivisionError):
        return None


def _tokens(text: str) -> list[str] | None:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match[0].strip())
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent over tokens; raises ValueError where the expression ends or breaks."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, ""]
        self.at = 0

    def whole(self) -> Fraction:
        result = self.sum()
        if self.tokens[self.at]:
            raise ValueError("no operator")
        return result

    def take(self, *wanted: str) -> str:
        """The next token if it is one of `wanted`, else nothing."""
        token = self.tokens[self.at]
        if token not in wanted:
            return ""
        self.at += 1
        return token

    def sum(self) -> Fraction:
        result = self.product()
        while operator := self.take("+", "-"):
            result += self.product() if operator == "+" else -self.product()
        return result

    def product(self) -> Fraction:
        result = self.power()
        while operator := self.take("*", "/") or ("*" if self.tokens[self.at] == "(" else ""):
            result = result * self.power() if operator == "*" else result / self.power()
        return result

    def power(self) -> Fraction:
        base = self.operand()
        if not self.take("^"):
            return base
        exponent = self.operand()
        if exponent.denominator != 1 or abs(exponent) > LARGEST_EXPONENT:
            raise ValueError("an exponent that is not a small whole number")
        return base ** int(exponent)

    def operand(self) -> Fraction:
        if self.take("-"):
            return -self.power()
        if self.take("("):
            result = self.sum()
            if not self.take(")"):
                raise ValueError("an open bracket")
            return self.percent(result)
        token = self.tokens[self.at]
        if not token[-1:].isdigit():
            raise ValueError("no number")
        self.at += 1
        return self.percent(_operand(token))

    def percent(self, result: Fraction) -> Fraction:
        return result / 100 if self.take("%") else result


def _operand(token: str) -> Fraction:
    whole, _, part = token.partition(" ")
    if "/" in part:
        return int(whole) + Fraction(part)
    return numeral("0" + token if token.startswith(".") else token)
