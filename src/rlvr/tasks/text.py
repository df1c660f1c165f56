"""Normal forms: of questions, to find duplicates, and of numbers in answers."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")
FULL_STOP = re.compile(r"\.(?!\d)")
OPERATORS = "-.*/%"  # punctuation to Unicode, but 8-2, 8*2 and 8/2 are three questions
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")


def normalized(text: str) -> str:
    """`text` in lower case and NFKC, without punctuation, white space as single spaces; numbers and operators stay."""
    folded = THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower())
    folded = FULL_STOP.sub(" ", BETWEEN_LETTERS.sub(" ", folded))
    letters = "".join(" " if unicodedata.category(c)[0] == "P" and c not in OPERATORS else c for c in folded)
    return " ".join(letters.split()) or text


def plain_number(text: str) -> str | None:
    """A number in its plain form: 1,234.50 → 1234.5, -3.0 → -3; None if `text` is not one number."""
    stripped = text.strip().replace("\N{MINUS SIGN}", "-")
    if not NUMBER.fullmatch(stripped):
        return None
    digits = format(Decimal(stripped.replace(",", "")), "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits == "-0" else digits


def number_with_unit(text: str) -> str | None:
    """The one number in `text`, without currency and other units; None for none or several."""
    bare = "".join(c for c in text if unicodedata.category(c) != "Sc").replace("\N{MINUS SIGN}", "-")
    numbers = re.findall(r"[-+]?\s*[\d.,]*\d", bare)
    return plain_number("".join(numbers[0].split())) if len(numbers) == 1 else None
