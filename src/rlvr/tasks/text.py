"""Normal forms: of questions, to find duplicates, and of numbers in answers."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

THOUSANDS = re.compile(r"(?<![\d,])(\d{1,3}),(\d{3})(?![\d,])")  # 1,234 and 1,234.50, but 1,234,567 may be a list
BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")
FULL_STOP = re.compile(r"\.(?!\d)")
LEADING_DOTS = re.compile(r"\.{2,}(?=\w)")  # ...X is another pattern than X...
EXCLAMATION = re.compile(r"(?<=[^\W\d]{2})!(?!=)|(?<![\w)\]}!])!(?![=\w(])")  # of a sentence; not 5!, n!, !n and !=
APOSTROPHE = re.compile(r"(?<!\b[^\W\d])(?<!['\d])'|'(?=[^\W\d])")  # all but the primes of f'(x), y'' and 5'
QUOTED = re.compile(r"""(?<![\w"'])(["'])((?:(?!\1).)*)\1(?!\w)""", re.DOTALL)
QUOTE = re.compile(r'(?<!\d)"')  # all but the inches of 5"
COLON = re.compile(r"(?<!\d):|:(?!\d)")  # 3:4 is a ratio
SIGNS = "-.*/%!#&@_\\:'\"()[]{}"  # punctuation to Unicode, but 8-2, 8*2 and 8/2, [1] and (1), C# and C differ
SAME = str.maketrans("\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{RIGHT SINGLE QUOTATION MARK}\N{PRIME}", "---''")
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")


def normalized(text: str) -> str:
    """`text` in lower case and NFKC, without the punctuation of sentences, white space as single spaces.

    What can be mathematics or code stays: numbers, operators, brackets, powers, factorials, primes; and a mark that
    stands alone between words, such as an empty field of a board.
    """
    raised = "".join(map(_raised, text))
    folded = THOUSANDS.sub(r"\1\2", unicodedata.normalize("NFKC", raised).lower().translate(SAME))
    folded = QUOTED.sub(r" \2 ", folded)
    *words, last = folded.split() or [""]
    stripped = [word if all(map(_is_punctuation, word)) else _bare(word) for word in words]
    return " ".join(" ".join([*stripped, _bare(last)]).split()) or text


def _bare(word: str) -> str:
    """`word` with spaces in place of the punctuation of sentences."""
    if dots := LEADING_DOTS.match(word):
        return dots[0] + _bare(word[dots.end() :])
    for punctuation in (BETWEEN_LETTERS, FULL_STOP, EXCLAMATION, APOSTROPHE, QUOTE, COLON):
        word = punctuation.sub(" ", word)
    return "".join(" " if _is_punctuation(c) and c not in SIGNS else c for c in word)


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] == "P"


def _raised(character: str) -> str:
    """A raised or lowered character as ^ or _ and the plain one: NFKC alone makes 52 of 5²."""
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return {"<super>": "^", "<sub>": "_"}.get(kind, "") + character


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
