"""Read numbers exactly, from the notations that models and people write.

A text is a number if it names exactly one. It may be written as

    1234 · 1234.0 · 1,234 · 1 234 · 1'234 · 1_234 · 12,34,567 · .5 · +5 · −5 · minus 5 · １２３４
    3/4 · 1 1/2 · ½ · \\frac{3}{4} · 1.2e3 · 1.2 × 10^3 · 1.2\\cdot10^{3} · 1.2 million
    $1,234 · 1234 € · 50% · 1234 apples · x = 1234 · The answer is **1234**. · $1234$ · \\boxed{1234} · 12\\text{ cm}^2

The point is always decimal. A comma separates groups and is never decimal: `1,5` is not a number. Neither are two
numbers (`3 or 4`), a range, a bound (`more than 3`), a negation (`not 3`), a factor (`3x`, `3π`, `half of 3`) or an
unfinished decimal (`3.33...`). Units are not compared: `1234 cents` is 1234.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from rlvr.verifiers.verdict import GOLD, UNPARSABLE, Verdict, fault, right_if, wrong

LONGEST = 200  # characters
LARGEST_EXPONENT = 1000

_CURRENCY = "$€£¥₹₽₩¢"
_PLAIN = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")
_NUMERAL = (
    r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|[1-9]\d{0,2}(?:'\d{3})+|[1-9]\d{0,2}(?:_\d{3})+"
    r"|[1-9]\d?(?:,\d{2})+,\d{3}|\d+)(?:\.\d+)?"
)
_CORE = re.compile(
    rf"(?:(?P<whole>\d+) (?P<part>\d+) ?/ ?(?P<of>\d+))"
    rf"|(?P<value>{_NUMERAL})(?: ?/ ?(?P<divisor>{_NUMERAL})|[eE](?P<e>[+-]?\d+)| ?[×x*·] ?10\^(?P<power>[+-]?\d+))?"
    rf"|10\^(?P<ten>[+-]?\d+)"
)
_SIGN = re.compile(rf"(?P<outer>[+-]?)(?: ?[{_CURRENCY}] ?(?P<inner>[+-]?) ?|(?P<apart> ?))$")
_FRAC = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|([0-9])\s*([0-9]))")
_POWER = re.compile(r"\^\s*\{\s*([+-]?[0-9]+)\s*\}")
_AREA = re.compile(r"(?<![a-z])((?:k|c|d|m)?m|in|ft|yd|mi|s|inch|feet)( *)\^[23](?![0-9])")
# Allowed around the number: words and light punctuation; hyphens and slashes only inside words (12-inch, km/h).
_BEFORE = re.compile(rf"(?:[^\W\d_]|[ ,;:.=≈~#\"'(\[{_CURRENCY}-])*")
_AFTER = re.compile(rf"(?:[^\W\d_]|[ ,;:.=\"'%°)\]{_CURRENCY}/-])*")
_LOOSE = re.compile(r"(?<![^\W\d_])[-/]|[-/](?![^\W\d_])|\w[(\[]")
_FIRST = re.compile(r"([-+−]?)(\d[\d,]*|(?=\.\d))(?:\.(\d+))?")
_WORD = re.compile(r"[^\W\d_]+")

_OPENS_SIGNED = (" ", "=", ":", "≈", "(", "~", "[", ",")  # allowed before a sign: `is -5`
_OPENS_SIGNED_APART = ("=", ":", "≈", "= ", ": ", "≈ ")  # and before a sign with a space after it: `x = - 5`

_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Words next to a number that make it another number, a bound, one of several, or none.
_REFUSED_WORDS = (
    "not no nor neither never or and than between least most over under above below except without isn wasn aren t "
    "plus minus negative times half third thirds quarter quarters twice double triple squared cubed root sqrt sin cos "
    "tan log ln exp pi π dozen dozens lakh crore k bn mn tenths hundredths thousandths hundreds thousands millions "
    "billions zero one two three four five six seven eight nine ten eleven twelve"
)
_REFUSED = frozenset(_REFUSED_WORDS.split()) | frozenset(_SCALES)
_FACTORS = frozenset({"x", "y", "z", "i", "e", "E", "M", "B", "K"})
_LATEX = {
    "{,}": ",", "\\!": "", "\\,": " ", "\\;": " ", "\\:": " ", "\\ ": " ", "\\$": "$", "\\%": "%",
    "\\(": "  ", "\\)": "  ", "\\[": "  ", "\\]": "  ", "\\cdot": "×", "\\times": "×", "\\approx": "≈",
    "^{\\circ}": "°", "^\\circ": "°", "**": "  ", "__": "  ",
}  # fmt: skip
_WRAPPER = re.compile(r"\\(?:boxed|fbox|text|textbf|mathbf|mathrm|mbox|mathit|textit)\s*\{")
_CHARACTERS = str.maketrans(
    dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")
    | dict.fromkeys("−﹣－‐‑‒–", "-")
    | dict.fromkeys("’‘ʼ＇", "'")
    | dict.fromkeys("⁄∕÷", "/")
    | dict.fromkeys("∙⋅", "·")
    | dict.fromkeys("“”", '"')
    | dict.fromkeys("\u200b\u2060\ufeff", "")
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")


def verify(answer: str, gold: str, *, tolerance: float) -> Verdict:
    """Right if |answer − gold| ≤ tolerance · |gold|, in exact arithmetic; a tolerance of 0 requires equality.

    A percent sign counts as a unit or as a hundredth: 50% is right for the golds 50 and 0.5, and vice versa. A gold
    that is not a number is a fault.
    """
    gold_number = _read(gold)
    if gold_number is None:
        return fault(
            GOLD, f"the gold {gold[:80]!r} is not a number; for words use the verifier text, for formulas math"
        )
    number = _read(answer)
    if number is None:
        return wrong(UNPARSABLE, "the answer is not a number, or more than one")
    (value, is_percent), (gold_value, is_gold_percent) = number, gold_number
    if _near(value, gold_value, tolerance):
        return right_if(True)
    if is_percent == is_gold_percent:
        return right_if(False)
    return right_if(
        _near(value / 100, gold_value, tolerance) if is_percent else _near(value, gold_value / 100, tolerance)
    )


def parse(text: str) -> Fraction | None:
    """The one number that `text` names (50% is 50); None for none or several, or for over 200 characters."""
    number = _read(text)
    return number[0] if number else None


def first(text: str) -> Fraction | None:
    """The first number in running text: digits with an optional sign, commas and point; None without one."""
    match = _FIRST.search(text)
    if match is None or len(match[0]) > LONGEST:
        return None
    sign, whole, decimals = match.groups()
    return _decimal(sign.replace("−", "-") + whole.replace(",", ""), decimals or "")


def _near(value: Fraction, expected: Fraction, tolerance: float) -> bool:
    if value == expected or not tolerance:
        return value == expected
    return abs(value - expected) <= Fraction(repr(tolerance)) * abs(expected)


def _read(text: str) -> tuple[Fraction, bool] | None:
    """The number and whether it is a percentage."""
    text = text.strip()
    return _read_short(text) if text and len(text) <= LONGEST else None


@lru_cache(maxsize=8192)  # each gold is read again for every completion and function
def _read_short(text: str) -> tuple[Fraction, bool] | None:
    plain = _PLAIN.fullmatch(text)
    if plain:
        sign, whole, decimals = plain.groups()
        return _decimal(sign + whole, decimals or ""), False
    text = _plain_notation(text)
    digits = [i for i, character in enumerate(text) if character.isdigit()]
    if not digits or "\\" in text:
        return None
    begin, end = digits[0], digits[-1] + 1
    if text[:begin].endswith(".") and not text[: begin - 1][-1:].isalnum():
        begin -= 1
    value = _value("0" + text[begin:end] if text[begin] == "." else text[begin:end])
    is_negative = _sign(text[:begin])
    scale = _scale(text[end:])
    if value is None or is_negative is None or scale is None:
        return None
    return (-value if is_negative else value) * scale, _is_percent(text[end:])


@lru_cache(maxsize=8192)
def _decimal(whole: str, decimals: str) -> Fraction:
    return Fraction(int(whole + decimals), 10 ** len(decimals)) if decimals else Fraction(int(whole))


def _plain_notation(text: str) -> str:
    """ASCII digits, signs and spaces; LaTeX and Markdown around a number become spaces, fractions become a/b."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text.translate(_CHARACTERS))
        text = "".join(map(_ascii, text))
    if "\\" in text or "{" in text or "*" in text or "_" in text:
        text = _POWER.sub(r"^\1", text)
        for written, meant in _LATEX.items():
            text = text.replace(written, meant)
        text = _FRAC.sub(lambda match: f" {match[1] or match[3]}/{match[2] or match[4]} ", text)
        text = _WRAPPER.sub("  ", text).replace("{", "  ").replace("}", "  ")
    return _AREA.sub(r"\1", text.strip(" *_`\n\t\r").replace("\n", "  "))


def _ascii(character: str) -> str:
    """Digits of any script and full-width forms as ASCII, a vulgar fraction as a/b after a space, others unchanged."""
    if character < "\u0080":
        return character
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if "\uff01" <= character <= "\uff5e":
        return chr(ord(character) - 0xFEE0)
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", character).replace("\u2044", "/")
    return character


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
    value = _numeral(match["value"]) if match["value"] else Fraction(1)
    divisor = _numeral(match["divisor"]) if match["divisor"] else Fraction(1)
    return value * Fraction(10) ** int(exponent) / divisor if divisor else None


def _mixed(whole: int, part: str, of: int) -> Fraction | None:
    """`1 1/2`; None for an improper part, and for one of three digits, which might be a group of the whole number."""
    return whole + Fraction(int(part), of) if int(part) < of and len(part) != 3 else None


def _numeral(text: str) -> Fraction:
    whole, _, decimals = text.partition(".")
    return _decimal("".join(filter(str.isdigit, whole)), decimals)


def _sign(before: str) -> bool | None:
    """Whether the text before the digits makes them negative; None if they cannot be read as the number."""
    match = _SIGN.search(before)
    assert match is not None
    rest, sign = before[: match.start()], match["outer"] + (match["inner"] or "")
    word = re.search(r"(?:^| )(?:minus|negative) $", before.lower())
    if word and not sign:
        rest, sign = before[: word.start()], "-"
    elif sign and rest.strip() and not rest.endswith(_OPENS_SIGNED_APART if match["apart"] else _OPENS_SIGNED):
        return None  # 5 apples - 3
    elif not sign and (before[-1:].isalpha() or (before[-1:] == "." and before[-2:-1].isalpha())):
        return None  # B12, v.2
    is_plain = _BEFORE.fullmatch(rest) and not _LOOSE.search(rest) and len(sign) < 2
    return sign == "-" if is_plain and _REFUSED.isdisjoint(_WORD.findall(rest.lower())) else None


def _scale(after: str) -> int | None:
    """The factor after the digits (`1.2 million`); None if they cannot be read as the number."""
    words = _WORD.findall(after)
    scale = 1
    if words and words[0].lower() in _SCALES and after.lstrip(" ").startswith(words[0]):
        scale, words, after = _SCALES[words[0].lower()], words[1:], after.replace(words[0], "", 1)
    if after.startswith(("..", "…")) or not _AFTER.fullmatch(after) or _LOOSE.search("a" + after):
        return None
    if not _REFUSED.isdisjoint(word.lower() for word in words) or (words and words[0] in _FACTORS):
        return None
    return scale


def _is_percent(after: str) -> bool:
    after = after.lstrip(" ").lower()
    return after.startswith(("%", "percent", "per cent"))
