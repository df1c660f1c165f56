"""Digits with separators as exact numbers."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

CURRENCY = "$€£¥₹₽₩¢"
NUMERAL = (
    r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|[1-9]\d{0,2}(?:'\d{3})+|[1-9]\d{0,2}(?:_\d{3})+"
    r"|[1-9]\d?(?:,\d{2})+,\d{3}|\d+)(?:\.\d+)?"
)


def numeral(text: str) -> Fraction:
    """The value of a text that matches NUMERAL."""
    whole, _, decimals = text.partition(".")
    return decimal("".join(filter(str.isdigit, whole)), decimals)


@lru_cache(maxsize=8192)
def decimal(whole: str, decimals: str) -> Fraction:
    """The value of `whole`.`decimals`; `whole` may have a sign."""
    return Fraction(int(whole + decimals), 10 ** len(decimals)) if decimals else Fraction(int(whole))
