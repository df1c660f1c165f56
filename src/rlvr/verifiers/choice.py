"""Multiple choice: compare the letter that an answer names."""

from __future__ import annotations

import re
import unicodedata

from rlvr.verifiers.verdict import GOLD, UNPARSABLE, Verdict, fault, right_if, wrong

LONGEST = 1000  # characters

_WRAPPER = re.compile(r"\\(?:boxed|fbox|text|textbf|mathbf|mathrm)\s*\{")
_DECORATION = str.maketrans(dict.fromkeys("*_`\"'“”‘’{}$", " "))
_LABEL = re.compile(r"[(\[]?\s*([A-Za-z])\s*(?:[)\].:]|\s[-–—]\s)(.*)", re.DOTALL)
_LAST = re.compile(r"(.*?)[(\[]?\b([A-Za-z])\b\s*[)\]]?[\s.!]*", re.DOTALL)
_ANOTHER = re.compile(r"\b(?:or|and)\b\s*[(\[]?\s*[A-Z]\b(?!\s+[a-z])|\b[A-Z][)\]]")
# Words allowed before the letter, as in "I think that the correct answer is option B".
_PHRASE = (
    "the my final correct right best answer option choice letter is it it s i choose pick select would think say be to "
    "that so therefore thus hence go with"
)
_PHRASE_WORDS = frozenset(_PHRASE.split())


def verify(answer: str, gold: str) -> Verdict:
    """Right if the answer names the letter of the gold, A to Z in either case, and no other.

    It reads `B`, `(b)`, `B.`, `Option B`, `**B**`, `\\boxed{B}`, `The answer is B` and `B) Paris`, and the gold in the
    same way. A gold that names no letter is a fault.
    """
    gold_choice = letter(gold)
    if gold_choice is None:
        return fault(GOLD, f"the gold {gold[:80]!r} names no letter A to Z; write for example B or B) Paris")
    choice = letter(answer)
    if choice is None:
        return wrong(UNPARSABLE, "the answer names no letter, or more than one")
    return right_if(choice == gold_choice)


def letter(text: str) -> str | None:
    """The one letter that `text` names, as a capital; None without one, or for over 1000 characters."""
    text = text.strip()
    if len(text) > LONGEST:
        return None
    text = _WRAPPER.sub(" ", unicodedata.normalize("NFKC", text)).translate(_DECORATION).strip()
    labelled = _LABEL.fullmatch(text)
    if labelled:
        return None if _ANOTHER.search(labelled[2]) else labelled[1].upper()
    last = _LAST.fullmatch(text)
    if last is None:
        return None
    before = re.findall(r"[^\W\d_]+|\S", last[1].lower())
    return last[2].upper() if all(word in _PHRASE_WORDS or word in ":=," for word in before) else None
