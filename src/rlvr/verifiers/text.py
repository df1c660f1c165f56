"""Compare text exactly, or after removing differences that do not matter."""

from __future__ import annotations

import re
import unicodedata

from rlvr.verifiers.verdict import UNPARSABLE, Verdict, right_if, wrong

_QUOTES = "\"'`“”„‘’‚«»‹›"
_FINAL = ".,;:!?…。！？"
_PAIRS = "**__()[]{}「」『』【】《》〈〉〔〕"
_AROUND = (("**", "**"), ("__", "__"), *zip(_PAIRS[::2], _PAIRS[1::2], strict=True))
_SAME = str.maketrans(dict.fromkeys("’‘ʼ", "'") | dict.fromkeys("\u2010\u2011", "-"))
_UNSEEN = str.maketrans("", "", "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u2060\u2066\u2067\u2068\u2069\ufeff")
_POWER = re.compile(r"(?<=\d)(?=[⁰¹²³⁴-⁹])")  # 5² is not 52; Ca²⁺ and Ca2+ are the same
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
    """`text` in Unicode's compatibility form (NFKC), case-folded, with white space as single spaces, plain apostrophes
    and hyphens, and without characters that are not seen.

    Quotes, brackets and Markdown's emphasis around the whole and punctuation at its end are removed, unless `text`
    holds nothing else. Articles stay: A is an answer, too.
    """
    if not text.isascii():
        text = _POWER.sub("^", text.translate(_UNSEEN).translate(_SAME))
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_SAME)
    whole = before = " ".join(text.casefold().split())
    bare = _bare(whole)
    while bare != before:
        before, bare = bare, _bare(bare)
    return bare or whole


def _bare(text: str) -> str:
    """`text` without one layer of marks around it."""
    text = text.rstrip(_FINAL + _QUOTES + " ").lstrip(_QUOTES + " ")
    for opening, closing in _AROUND:
        inner = text[len(opening) : len(text) - len(closing)]
        if text == opening + inner + closing and opening not in inner and closing not in inner:
            return inner.strip()
    return text


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
