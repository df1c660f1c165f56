"""Multiple choice: compare the letter that an answer names."""

from __future__ import annotations

import re
import unicodedata

from rlvr.verifiers.verdict import GOLD, RIGHT, UNPARSABLE, Verdict, fault, right_if, wrong

LONGEST = 1000  # characters

_WRAPPER = re.compile(r"\\(?:boxed|fbox|text|textbf|mathbf|mathrm)\s*\{")
_DECORATION = str.maketrans(dict.fromkeys("*_`\"'“”‘’{}$", " "))
_LABEL = re.compile(r"[(\[]?\s*([A-Za-z])\s*(?:[)\].:]|\s[-–—]\s)(.*)", re.DOTALL)
_LETTER = re.compile(r"[(\[]?\s*\b([A-Za-z])\b")
_END = re.compile(r"\s*[)\]]?[\s.!]*")
_MARK = re.compile(r"\s*[)\].:]{1,2}(?=\s)(.*)", re.DOTALL)
_IS = re.compile(r"\s*[)\]]?\s+(?:is|was)\s(.*?)[\s.!]*", re.DOTALL)
_REASON = re.compile(r"\s*[)\]]?(?:,?\s+(?:because|since)\s|,\s+(?!and\b|but\b|maybe\b|perhaps\b))(.*)", re.DOTALL)
_LONE_LETTER = re.compile(r"\b[b-hj-z]\b")
_ANOTHER = re.compile(r"\b(?:or|and)\b\s*[(\[]?\s*[A-Z]\b(?!\s+[a-z])|\b[A-Z][)\]]")
_LABELS = re.compile(r"(?<=[^\W_])[\s,;]+[(\[]?([A-Za-z])\s*[)\].:](?=\s)")  # of further options
_ANOTHER_ANYWHERE = re.compile(r"\b[B-HJ-Z]\b|\b[AI][)\].,!]")
_DENIED = re.compile(r"\s*(?:is|was)\s*(?:n['’]t|not|never|wrong|incorrect|false)\b|\s*(?:no|not|or|wait)\b[\s,]", re.I)
# Words allowed around the letter, as in "I think that the correct answer is option B" and "B is right".
_PHRASE = (
    "the my final correct right best true answer option choice letter is it it s i choose pick select would think say "
    "be to that so therefore thus hence go with one"
)
_PHRASE_WORDS = frozenset(_PHRASE.split())


def verify(answer: str, gold: str) -> Verdict:
    """Right if the answer names the letter of the gold, A to Z in either case, and no other.

    It reads `B`, `(b)`, `B.`, `Option B`, `**B**`, `\\boxed{B}`, `The answer is B`, `The answer is (B) Paris`,
    `B is correct`, `B) Paris`, `B, Paris` and `B because …`, and the gold in the same way. A gold
    that names no letter is a fault.
    """
    expected = letter(gold)
    if expected is None:
        return check_gold(gold)
    choice = letter(answer)
    if choice is None:
        return wrong(UNPARSABLE, "the answer names no letter, or more than one")
    return right_if(choice == expected)


def check_gold(gold: str) -> Verdict:
    """A fault unless `gold` names a letter."""
    if letter(gold) is None:
        return fault(GOLD, f"the gold {gold[:80]!r} names no letter A to Z; write for example B or B) Paris")
    return RIGHT


def letter(text: str) -> str | None:
    """The one letter that `text` names, as a capital; None without one, or for over 1000 characters."""
    text = text.strip()
    if len(text) > LONGEST:
        return None
    text = _WRAPPER.sub(" ", unicodedata.normalize("NFKC", text)).translate(_DECORATION).strip()
    labelled = _LABEL.fullmatch(text)
    if labelled:
        is_one = not (_ANOTHER.search(labelled[2]) or _DENIED.match(labelled[2]) or _lists(labelled[2], labelled[1]))
        return labelled[1].upper() if is_one else None
    for match in _LETTER.finditer(text):
        if not _is_phrase(text[: match.start()]):
            return None
        if _ends_after(text[match.end() :]):
            return match[1].upper()
    return None


def _ends_after(rest: str) -> bool:
    """Whether nothing after a letter names another: `.`, `) Paris.` or ` is the right answer.`"""
    if _END.fullmatch(rest):
        return True
    said = _IS.fullmatch(rest)
    if said:
        return bool(said[1]) and _is_phrase(said[1])
    label = _MARK.match(rest)
    if label is None and (label := _REASON.fullmatch(rest)) and _LONE_LETTER.search(label[1]):
        return False
    return label is not None and not _ANOTHER_ANYWHERE.search(label[1]) and not _DENIED.match(label[1])


def _lists(text: str, letter: str) -> bool:
    """Whether `text` continues with the label of another option: on a new line, of the next letter, or `c) Rome`."""
    following = chr(ord(letter.upper()) + 1)
    return any(
        "\n" in match[0] or match[1].upper() == following or (match[1].islower() and ")" in match[0])
        for match in _LABELS.finditer(text)
    )


def _is_phrase(text: str) -> bool:
    """Whether `text` holds nothing but words that lead to an answer, and light punctuation."""
    return all(word in _PHRASE_WORDS or word in ":=," for word in re.findall(r"[^\W\d_]+|\S", text.lower()))
