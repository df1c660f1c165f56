"""Multiple choice: compare the letter that an answer names."""

from __future__ import annotations

import re
import unicodedata

from rlvr.verifiers.verdict import GOLD, RIGHT, UNPARSABLE, Verdict, fault, right_if, wrong

LONGEST = 1000  # characters

_WRAPPER = re.compile(r"\\(?:boxed|fbox|text|textbf|mathbf|mathrm)\s*\{")
_DECORATION = str.maketrans(dict.fromkeys("*_`\"'“”‘’{}$", " "))
_LABEL = re.compile(r"[(\[]?\s*([A-Za-z])\s*(?:[)\].:]|\s[-–—]\s)(.*)", re.DOTALL)
_LETTER_TEXT = re.compile(r"[(\[]?\s*[A-Za-z]\s*[)\]:]\s*[A-Za-z][\s.!]*")  # B) A, where A is the text of option B
_LETTER = re.compile(r"[(\[]?\s*\b([A-Za-z])\b")
_ANGLE = re.compile(r"<\s*([A-Za-z])\s*>(?=[\s.!;]*$)")
_END = re.compile(r"\s*[)\]]?[\s.!;]*")
_MARK = re.compile(r"\s*[)\].:]{1,2}(?=\s)(.*)", re.DOTALL)
_IS = re.compile(r"\s*[)\]]?\s+(?:is|was)\s(.*)", re.DOTALL)
_CLAIM = re.compile(  # `the best answer`, then why
    r"(.+?)(?:[\s.!;]*|,?\s+(?:because|since|as(?! well\b))\s(?P<why>.*)|[.,:!]\s(?P<more>.*))", re.DOTALL
)
_ASIDE = re.compile(r"\s*[)\]]?(?:[ \t]*\((.*)\)[\s.!;]*|[.!;]*\s*\n\s*(.*))", re.DOTALL)  # C (Oslo)
_REASON = re.compile(r"\s*[)\]]?(?:,?\s+(?:because|since)\s|,\s+(?!and\b|but\b|maybe\b|perhaps\b))(.*)", re.DOTALL)
_LONE_LETTER = re.compile(r"\b[b-hj-ln-ru-z]\b")  # not those of it's, isn't and I'm
_STARTS_WITH_LETTER = re.compile(r"\W*[A-Za-z]\b(?!\s+[a-z])")
_ANOTHER = re.compile(r"\b(?:or|and)\b\s*[(\[]?\s*[A-Z]\b(?!\s+[a-z])|\b[A-Z][)\]]")
_LABELS = re.compile(r"(?<=[^\W_])[\s,;]+[(\[]?([A-Za-z])\s*[)\].:](?=\s)")  # of further options
_ANOTHER_ANYWHERE = re.compile(r"\b[B-HJ-Z]\b|\b[AI][)\].,!]|^\W*A\W*$|\b(?:or|and|is|be|not)\W+A\W*$")
_LETTERS_ONLY = re.compile(r"(?:[\s,;:.)\]([/&|–—-]*\b[A-Za-z]\b)+[\s,;:.)\]!]*")
_FIRST_LETTERS = "ABCDEFGHIJ"  # of the usual options: `B) x` has the text x, `B) C` names two options
# The text of an option that names earlier ones: `Both A and B`, `A, B and C only`.
_ONE = r"[(\[]?\b([A-Z])\b[)\]]?"
_EARLIER = re.compile(
    rf"[\s,:([]*(?:(?P<how>both|all of|only|neither|either)\s+)?(?:(?:options?|answers?|choices?)\s+)?"
    rf"{_ONE}(?:\s*,\s*{_ONE})*,?\s*(?P<joint>\band\b|&|\bnor\b|\bor\b)\s*{_ONE}"
    r"(?:\s+only|\s+are\s+(?:both\s+)?(?:correct|true|right))?[\s.!;)\]]*",
    re.IGNORECASE,
)
_JOINTS = {"neither": ("nor", "or"), "either": ("or",)}
_HEDGE_WORDS = (
    "or nor but not no never maybe perhaps possibly probably likely either neither both unless although though however "
    "alternatively instead wait also wrong incorrect false guess guessing unsure sure if actually second other another"
)
_HEDGE = re.compile(rf"\b(?:{'|'.join(_HEDGE_WORDS.split())})\b|n['’ ]?t\b|\?", re.IGNORECASE)
_OF_OTHERS = re.compile(r"\b(?:others?|all|any|each|every|might|could|may)\b", re.IGNORECASE)
_TURNS = re.compile(
    r"\W*(?:but|maybe|perhaps|possibly|probably|unless|although|though|however|alternatively|or|also)\b", re.IGNORECASE
)
_DENIED = re.compile(r"\s*(?:is|was)\s*(?:n['’]t|not|never|wrong|incorrect|false)\b|\s*(?:no|not|or|wait)\b[\s,]", re.I)
# Words allowed around the letter, as in "I think that the correct answer is option B" and "B is right".
_PHRASE = (
    "the my our final correct right best true only answer option choice letter solution conclusion is it it s i we "
    "choose pick select chose chosen picked selected would must should has think say believe am sure certain confident "
    "clearly obviously definitely certainly surely indeed be to that so therefore thus hence go with one"
)
_PHRASE_WORDS = frozenset(_PHRASE.split())


def verify(answer: str, gold: str) -> Verdict:
    """Right if the answer names the letter of the gold, A to Z in either case, and no other.

    It reads `B`, `(b)`, `B.`, `Option B`, `**B**`, `\\boxed{B}`, `The answer must be B`, `The answer is (B) Paris`,
    `B is correct because …`, `B) Paris`, `B (Paris)`, `B, Paris` and `B because …`, and the gold in the same way. The
    text of an option may name earlier ones: `D) Both A and B`. A gold that names no letter is a fault.
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
    text = _ANGLE.sub(r"(\1)", text)
    labelled = _LABEL.fullmatch(text)
    if labelled and _LETTER_TEXT.fullmatch(text):
        return labelled[1].upper()
    if labelled:
        return labelled[1].upper() if _is_option(labelled[2], labelled[1]) else None
    for match in _LETTER.finditer(text):
        if not _is_phrase(text[: match.start()]):
            return None
        if _ends_after(text[match.end() :], match[1]):
            return match[1].upper()
    return None


def _is_option(text: str, letter: str) -> bool:
    """Whether `text` is the option behind the label of `letter`, and not another letter, a denial or a list."""
    if _names_earlier(text, letter):
        return True
    if _LETTERS_ONLY.fullmatch(text):
        first = _FIRST_LETTERS if letter.isupper() else _FIRST_LETTERS.lower()
        return not any(other in first for other in re.findall("[A-Za-z]", text))
    return not (_ANOTHER.search(text) or _DENIED.match(text) or _lists(text, letter))


def _names_earlier(text: str, letter: str) -> bool:
    """Whether `text` is an option such as `Both A and B`, whose letters all stand before `letter`."""
    match = _EARLIER.fullmatch(text)
    if match is None or match["joint"].lower() not in _JOINTS.get((match["how"] or "").lower(), ("and", "&")):
        return False
    named = [other.upper() for other in re.findall(r"\b[A-Za-z]\b", text)]
    return max(named) < letter.upper() and len(set(named)) == len(named)


def _ends_after(rest: str, letter: str) -> bool:
    """Whether nothing after a letter names another: `.`, `) Paris.`, ` (Paris)` or ` is the right answer.`"""
    if _END.fullmatch(rest):
        return True
    if said := _IS.fullmatch(rest):
        return _is_claim(said[1])
    if aside := _ASIDE.fullmatch(rest):
        text = aside[1] or aside[2] or ""
        return _names_earlier(text, letter) or not (_names_other(text) or _HEDGE.search(text))
    label = _MARK.match(rest)
    if label is None and (label := _REASON.fullmatch(rest)) and _LONE_LETTER.search(label[1]):
        return False
    if label is None:
        return False
    if _names_earlier(label[1], letter):
        return True
    return not (_ANOTHER_ANYWHERE.search(label[1]) or _DENIED.match(label[1]) or _TURNS.match(label[1]))


def _is_claim(text: str) -> bool:
    """Whether `text`, after `B is`, says that it is right, and perhaps why, without another letter."""
    claim = _CLAIM.fullmatch(text)
    if claim is None or not _is_phrase(claim[1]):
        return False
    more = f"{claim['why'] or ''} {claim['more'] or ''}".strip()
    return not (_names_other(more) or _HEDGE.search(more) or _OF_OTHERS.search(more))


def _names_other(text: str) -> bool:
    return any(one.search(text) for one in (_ANOTHER_ANYWHERE, _LONE_LETTER)) or bool(_STARTS_WITH_LETTER.match(text))


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
