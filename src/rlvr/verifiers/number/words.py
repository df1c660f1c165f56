"""The words around a number: units and honest wording are left out, other numbers and bounds refuse it."""

from __future__ import annotations

import re
from fractions import Fraction

from rlvr.verifiers.number.numerals import CURRENCY

SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NAMED = {word: number for number, word in enumerate(_ONES.split())}
_NAMED |= {word: 10 * number for number, word in enumerate(_TENS.split(), start=2)}
NAMES = "|".join([*_NAMED, *SCALES])
_PARTS = "hal(?:f|ves)|(?:third|fourth|fifth|quarter|tenth|hundredth|thousandth)s?"

# Letters and light punctuation; hyphens and slashes only inside words (12-inch, km/h).
_BEFORE = re.compile(rf"(?:[^\W\d_]|[ ,;:.=≈~#\"'(\[{CURRENCY}-])*")
_AFTER = re.compile(rf"(?:[^\W\d_]|[ ,;:.=\"'%°()\]{CURRENCY}/-])*")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])(?: ?/ ?|&)(?=[^\W\d_])")
_LOOSE = re.compile(r"(?<![^\W\d_])[-/]|[-/](?![^\W\d_])|\w[(\[]")
_FINAL_MARKS = re.compile(r"(?<=[^\W\d_)])[!?]+$")
_WORD = re.compile(r"[^\W\d_]+")
_IN_BRACKETS = re.compile(rf"^[ ,]*\(?((?:{NAMES})(?:(?: |-| and )(?:{NAMES}))*)\)?(?=\W*$|\))")
SPELLED_BEFORE = re.compile(rf"(?<![\w-])((?:{NAMES})(?:(?: |-| and )(?:{NAMES}))*) \($")  # forty-two (42)

# Before a number: what denies it or names another one, and what makes it a bound or a factor right before it.
_DENIES = re.compile(
    r"\b(?:not|no|nor|neither|never|or|isn|wasn|aren|weren|don|doesn|didn|isnt|cannot|hardly|anything but|instead of"
    r"|far from|(?:can|couldn|won|wouldn|hasn|haven|hadn)(?='t))\b"
)
_PART_OF = re.compile(  # the square of, one in, and half x =
    r"\b(?:squares?|cubes?|reciprocal|inverse|opposite|multiples?|divisors?|percent|tenths?) of(?: the)? *$"
    rf"|\b(?:{NAMES}) (?:in|out of) *$|\b(?:almost|nearly|up to) *$"
    rf"|\b(?:half|twice|double|triple|{NAMES})(?: (?:of|the|a|number|answer|amount|value|[a-z]))* *= *$"
)
_BENDS = re.compile(
    rf"\b(?:than|least|most|over|under|above|below|except|without|between|plus|times|half|twice|double|triple|thirds?"
    rf"|quarters?|root|sqrt|sin|cos|tan|log|ln|exp|pi|π|dozens?|squared|cubed|minus|negative|{NAMES})"
    r"(?:[ ,;/-]+(?:of|the|a|an|about|around|roughly|exactly|and|to|by|times|plus|point|but|perhaps|maybe|possibly"
    r"|probably|rather|actually|it|is))*[ (\[,;/-]*$"
)

# After a number: what follows at once …
_FOLLOWS = re.compile(
    r"[ ,;:.(\"'-]*(?:squared|cubed|root|sqrt|sin|cos|tan|log|ln|exp|pi|π|dozens?|doz|lakh|crore|k|bn|mn"
    r"|mio|grand|tens"
    r"|doubled|tripled|halved|twice|half(?!-)"
    r"|halves|quarters? of|(?:third|fourth|fifth|tenth|hundredth|thousandth)s?|(?:hundred|thousand|million|billion)s"
    rf"|below|not|no|nope|never|(?:wrong|incorrect)(?=\W*$)|over (?:{NAMES})"
    rf"|(?:is|was|would be)(?: not|n't|(?: the)? wrong| incorrect| false| too)|{NAMES})\b(?!-[a-z])"
)
_FACTOR = re.compile(r"(?: ?[xyzieEMBKk]|[abnqruvw]| ?/ ?[abnxyz])(?![^\W\d_])")
# … and what follows anywhere: an alternative, an open calculation, a bound, a scale.
_ALTERS = re.compile(
    r"\b(?:or|nor|versus|vs|plus|minus|divided|multiplied)\b|\bbelow zero\b|\bat (?:the )?(?:least|most)\b"
    r"|\band (?:up|upwards|above|over|more|beyond|counting|under|change)\b|\btimes [b-z]\b"
    rf"|\band (?:an? |one )(?:{_PARTS})\b|\band half\b|\bin (?:hundreds|thousands|millions|billions)\b"
)
# A number in words is a rate or a part of a name after these: `18 in two hours`, `3 on each one`, `7 one-way tickets`.
_NUMBER_WORD = re.compile(rf"([^\W\d_]*)([^\w]*)\b(?:{NAMES})\b(-[a-z]{{2,}})?")
_RATES = (
    "in for per each every of with on at after before within during next last first other these those all both any "
    "this that only working from into over the his her its their our your"
)
_RATE_WORDS = frozenset(_RATES.split())


def may_precede(text: str) -> bool:
    """Whether the number after `text`, without its sign, still means itself."""
    if not _BEFORE.fullmatch(text) or _LOOSE.search(text):
        return False
    text = text.lower()
    return not any(pattern.search(text) for pattern in (_DENIES, _BENDS, _PART_OF))


def scale(text: str, value: Fraction) -> int | None:
    """The factor that `text` names after the digits of `value` (`1.2 million`); None if they no longer mean it."""
    words = _WORD.findall(text)
    factor = 1
    if words and words[0].lower() in SCALES and text.lstrip(" ").startswith(words[0]):
        factor, text = SCALES[words[0].lower()], text.replace(words[0], "", 1)
    if text.startswith(("..", "…")) or _FACTOR.match(text):
        return None
    text = _BETWEEN_WORDS.sub("/", _FINAL_MARKS.sub("", text.lower()))
    in_words = _IN_BRACKETS.match(text)
    if in_words and spelled(in_words[1]) == value * factor:
        text = text[in_words.end() :].removeprefix(")")
    if not _AFTER.fullmatch(text) or _LOOSE.search("a" + text):
        return None
    return None if _FOLLOWS.match(text) or _ALTERS.search(text) or _names_another(text) else factor


def is_percent(text: str) -> bool:
    """Whether the number before `text` is a percentage."""
    return text.lstrip(" ").lower().startswith(("%", "percent", "per cent"))


def _names_another(text: str) -> bool:
    """Whether `text` holds a number in words that is not a rate or a part of a compound."""
    return any(
        not tail and (word not in _RATE_WORDS or between.strip()) for word, between, tail in _NUMBER_WORD.findall(text)
    )


def spelled(text: str) -> int:
    """The number that words name: `two hundred and five` is 205."""
    total = group = 0
    for word in re.findall(r"[a-z]+", text):
        if word == "hundred":
            group = (group or 1) * 100
        elif word in SCALES:
            total, group = total + (group or 1) * SCALES[word], 0
        elif word != "and":
            group += _NAMED[word]
    return total + group
