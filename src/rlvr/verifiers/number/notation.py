"""Rewrite LaTeX, Markdown and the characters of other scripts as plain ASCII notation."""

from __future__ import annotations

import re
import unicodedata

_FRACTION = re.compile(r"(\d)? *\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|([0-9])\s*([0-9]))")
_POWER = re.compile(r"\^\s*\{\s*([+-]?[0-9]+)\s*\}")
_AREA = re.compile(r"(?<![a-z])((?:k|c|d|m)?m|in|ft|yd|mi|s|inch|feet)( *)\^[23](?![0-9])")
_LATEX = {
    "-\\boxed{": "-", "-\\fbox{": "-", "~": " ",
    "{,}": ",", "\\!": "", "\\,": " ", "\\;": " ", "\\:": " ", "\\ ": " ", "\\$": "$", "\\%": "%",
    "\\(": "  ", "\\)": "  ", "\\[": "  ", "\\]": "  ", "\\cdot": "×", "\\times": "×", "\\div": "/", "\\approx": "≈",
    "^{\\circ}": "°", "^\\circ": "°", "**": "  ", "__": "  ",
}  # fmt: skip
_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|emph|text|textbf|textit|textrm|textnormal|mathbf|mathrm|mathit|mbox)\s*\{"
    r"|\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![A-Za-z])"
)
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
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations


def plain_notation(text: str) -> str:
    """ASCII digits, signs and spaces; LaTeX and Markdown around a number become spaces, fractions become a/b."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text.translate(_CHARACTERS))
        text = "".join(map(_ascii, text))
    if "<<" in text:
        text = _CALCULATOR.sub("", text)
    if "\\" in text or "{" in text or "**" in text or "__" in text:
        text = _POWER.sub(r"^\1", text)
        for written, meant in _LATEX.items():
            text = text.replace(written, meant)
        text = _FRACTION.sub(_plain_fraction, text)
        text = _WRAPPER.sub("  ", text).replace("{", "  ").replace("}", "  ")
    return _AREA.sub(r"\1", text.strip(" *_`\n\t\r").replace("\n", "  "))


def _plain_fraction(match: re.Match[str]) -> str:
    """`\\frac{3}{4}` as 3/4, and after a digit as the second part of a mixed number."""
    whole, *parts = match.groups()
    numerator, denominator = (part for part in parts if part is not None)
    return f"{whole or ''} {numerator}/{denominator} "


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
