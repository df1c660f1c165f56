"""Compare text exactly, or after removing differences that do not matter."""

from __future__ import annotations

import unicodedata

from rlvr.verifiers.verdict import UNPARSABLE, Verdict, right_if, wrong

_QUOTES = "\"'`“”„‘’‚«»‹›"
_FINAL = ".,;:!?…。！？"
_MOST_MARKS = 30  # combining marks in a row; Unicode's stream-safe text (UAX 15, section 13) has no more


def exact(answer: str, gold: str) -> Verdict:
    """Right if equal to the gold after stripping both."""
    return right_if(answer.strip() == gold.strip())


def normalised(answer: str, gold: str) -> Verdict:
    """Right if answer and gold are equal after `normalise`.

    An answer with more than 30 combining marks in a row is unparsable: its normal form would take quadratic time.
    """
    if answer == gold:
        return right_if(True)
    if has_many_marks(answer):
        return wrong(UNPARSABLE, f"more than {_MOST_MARKS} combining marks in a row")
    return right_if(normalise(answer) == normalise(gold))


def normalise(text: str) -> str:
    """`text` in Unicode's compatibility form (NFKC), case-folded, with white space as single spaces.

    Quotes around the whole and punctuation at its end are removed. Articles stay: A is an answer, too.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.casefold().split()).rstrip(_FINAL + _QUOTES + " ").lstrip(_QUOTES + " ")


def has_many_marks(text: str) -> bool:
    """Whether more than 30 combining marks follow one another."""
    if text.isascii():
        return False
    in_a_row = 0
    for character in text:
        in_a_row = in_a_row + 1 if character > "\u02ff" and unicodedata.combining(character) else 0
        if in_a_row > _MOST_MARKS:
            return True
    return False
