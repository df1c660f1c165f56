"""Read the one number that a text names. It may be written as

    1234 · 1234.0 · 1,234 · 1 234 · 1'234 · 1_234 · 12,34,567 · .5 · +5 · −5 · minus 5 · １２３４
    3/4 · 1 1/2 · ½ · \\frac{3}{4} · 5 \\frac{1}{4} · 1.2e3 · 1.2 × 10^3 · 1.2\\cdot10^{3} · 1.2 million
    $1,234 · 1234 € · 50% · 1234 apples · x = 1234 · The answer is **1234**. · $1234$ · \\boxed{1234} · 12\\text{ cm}^2
    4 marbles left over · 8 (eight) · 2 + 6 = 8, a true equation

The point is always decimal. A comma separates groups and is never decimal: `1,5` is not a number. Neither are two
numbers (`3 or 4`), a range, a bound (`more than 3`), a negation (`not 3`), a factor (`3x`, `3π`, `half of 3`), an
unfinished decimal (`3.33...`), a sum (`2 + 6`) or a false equation. Units are not compared: `1234 cents` is 1234.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rlvr.verifiers.number import equations, words
from rlvr.verifiers.number.notation import plain_notation
from rlvr.verifiers.number.numerals import CURRENCY, NUMERAL, decimal, numeral

LONGEST = 200  # characters
LARGEST_EXPONENT = 1000

_PLAIN = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")
_CORE = re.compile(
    rf"(?:(?P<whole>\d+) +(?P<part>\d+) ?/ ?(?P<of>\d+))"
    rf"|(?P<value>{NUMERAL})(?: ?/ ?(?P<divisor>{NUMERAL})|[eE](?P<e>[+-]?\d+)| ?[×x*·] ?10\^(?P<power>[+-]?\d+))?"
    rf"|10\^(?P<ten>[+-]?\d+)"
)
_SIGN = re.compile(rf"(?P<outer>[+-]?)(?: ?[{CURRENCY}] ?(?P<inner>[+-]?) ?|(?P<apart> ?))$")
_MINUS = re.compile(rf"(?:^|[ (])(?:minus|negative) [ (]*(?:[{CURRENCY}] ?)?$")
_OPERAND = re.compile(r"(?:^|[^\w'’])[B-HJ-Zb-hj-z]$")  # x minus 7
_FIRST = re.compile(r"([-+−]?)(\d[\d,]*|(?=\.\d))(?:\.(\d+))?")
_OPENS_SIGNED = (" ", "=", ":", "≈", "(", "~", "[", ",")  # allowed before a sign: `is -5`
_OPENS_SIGNED_APART = ("=", ":", "≈", "= ", ": ", "≈ ")  # and before a sign with a space after it: `x = - 5`


@dataclass(frozen=True)
class Number:
    """A number as it is written: 50% has the value 50."""

    value: Fraction
    is_percent: bool

    @property
    def share(self) -> Fraction:
        """50% as a hundredth: 1/2."""
        return self.value / 100 if self.is_percent else self.value


def parse(text: str) -> Fraction | None:
    """The one number that `text` names (50% is 50); None for none or several, or for over 200 characters."""
    number = read(text)
    return number.value if number else None


def first(text: str) -> Fraction | None:
    """The first number in running text: digits with an optional sign, commas and point; None without one."""
    match = _FIRST.search(text)
    if match is None or len(match[0]) > LONGEST:
        return None
    sign, whole, decimals = match.groups()
    return decimal(sign.replace("−", "-") + whole.replace(",", ""), decimals or "")


def read(text: str) -> Number | None:
    """The one number that `text` names; None for none or several, or for over 200 characters."""
    text = text.strip()
    return _read(text) if text and len(text) <= LONGEST else None


@lru_cache(maxsize=8192)  # each gold is read again for every completion and function
def _read(text: str) -> Number | None:
    plain = _PLAIN.fullmatch(text)
    if plain:
        sign, whole, decimals = plain.groups()
        return Number(decimal(sign + whole, decimals or ""), is_percent=False)
    text = plain_notation(text)
    if "\\" in text:
        return None
    sides = text.split("=")
    if sum(map(_has_digits, sides)) > 1:
        return _result([side for side in sides if _has_digits(side)])
    return _phrase(text)


def _has_digits(text: str) -> bool:
    return any(character.isdigit() for character in text)


def _result(sides: list[str]) -> Number | None:
    """The one number of a true equation such as `2 + 6 = 8`; None if a side has another value."""
    for side in (sides[-1], sides[0]):
        result = _phrase(side)
        if result is not None:
            others = (equations.value(other) for other in sides if other is not side)
            return result if all(other in (result.value, result.share) for other in others) else None
    return None


def _phrase(text: str) -> Number | None:
    """The one number among words and units."""
    digits = [i for i, character in enumerate(text) if character.isdigit()]
    if not digits:
        return None
    begin, end = digits[0], digits[-1] + 1
    if spelled := words.SPELLED_BEFORE.search(text[:begin].lower()):
        return _spelled_twice(spelled[1], text[: spelled.start(1)] + text[begin:].replace(")", "", 1))
    if text[:begin].endswith(".") and not text[: begin - 1][-1:].isalnum():
        begin -= 1
    value = _value("0" + text[begin:end] if text[begin] == "." else text[begin:end])
    is_negative = _sign(text[:begin])
    if value is None or is_negative is None:
        return None
    scale = words.scale(text[end:], value)
    if scale is None:
        return None
    return Number((-value if is_negative else value) * scale, words.is_percent(text[end:]))


def _spelled_twice(spelled: str, digits: str) -> Number | None:
    """`forty-two (42)` as 42; None if the two differ."""
    number = _phrase(digits)
    return number if number is not None and number.value == words.spelled(spelled) else None


def _value(core: str) -> Fraction | None:
    """The value of the text from the first digit to the last, without sign."""
    match = _CORE.fullmatch(core)
    if match is None:
        return None
    exponent = match["e"] or match["power"] or match["ten"] or "0"
    if len(exponent) > 5 or abs(int(exponent)) > LARGEST_EXPONENT:
        return None
    if match["part"]:
        return _mixed(int(match["whole"]), match["part"], int(match["of"]))
    value = numeral(match["value"]) if match["value"] else Fraction(1)
    divisor = numeral(match["divisor"]) if match["divisor"] else Fraction(1)
    return value * Fraction(10) ** int(exponent) / divisor if divisor else None


def _mixed(whole: int, part: str, of: int) -> Fraction | None:
    """`1 1/2`; None for an improper part, and for one of three digits, which might be a group of the whole number."""
    return whole + Fraction(int(part), of) if int(part) < of and len(part) != 3 else None


def _sign(before: str) -> bool | None:
    """Whether the text before the digits makes them negative; None if they cannot be read as the number."""
    match = _SIGN.search(before)
    assert match is not None
    rest, sign = before[: match.start()], match["outer"] + (match["inner"] or "")
    word = _MINUS.search(before.lower())
    if word and not sign:
        if _OPERAND.search(before[: word.start()].rstrip()):
            return None
        rest, sign = before[: word.start()], "-"
    elif sign and rest.strip() and not rest.endswith(_OPENS_SIGNED_APART if match["apart"] else _OPENS_SIGNED):
        return None  # 5 apples - 3
    elif not sign and (before[-1:].isalpha() or (before[-1:] == "." and before[-2:-1].isalpha())):
        return None  # B12, v.2
    return sign == "-" if len(sign) < 2 and words.may_precede(rest) else None
