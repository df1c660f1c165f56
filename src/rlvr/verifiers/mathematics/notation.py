"""Rewrite what people write for the parser: marks around mathematics, plain notations, other characters."""

from __future__ import annotations

import re
import unicodedata

from rlvr.verifiers.mathematics.units import without_unit

SIGNS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\neq ",
        "∈": r"\in ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∅": r"\emptyset ",
        "±": r"\pm ",
        "°": r"^\circ ",
        "≈": r"\approx ",
        "∛": r"\sqrt[3]",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
SUPERSCRIPT, SUBSCRIPT = re.compile("[⁻⁺]?[⁰¹²³⁴-⁹]+"), re.compile("[₀-₉]+")
VULGAR = re.compile("[¼-¾⅐-⅞]")  # ½ and its like
MARKS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ('"', '"'))
JOINED = re.compile(r"\$\s*(?:,\s*(?:and|or)?|and|or)\s*\$")  # between $a$ and $b$
BETWEEN_BOXES = re.compile(r"\}\s*(?:,|and|\\text\{\s*and\s*\})?\s*\\f?boxed\s*\{")
SPACED_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:\\[,;! ]|~|\{,\}|\s)\d{3})+(?:\.\d+)?")
# the parser would add them
NUMBERS_SIDE_BY_SIDE = re.compile(r"(?<![_^\d.,])(?<!frac )(?<!frac)\d[\d.]*(?:,\d{3})*(?:\s|~|\\[,;! ])+\d")
# 5 to 7, 2 ft 3 in and 5 R 2: the parser would multiply the letters, too
WORD_BETWEEN = re.compile(
    r"(?<![\w^.\\])\d[\d.,]*\s+(?!(?:pi|sqrt|sin|cos|tan|log|ln|exp)\b)(?:[A-Za-z]{2,}|[mhsglLRr])\s+\d"
    r"|(?<![\w^])\d+\s*[rR]\s*\d+$"
)
MIXED = re.compile(r"([-+]?)(\d+)\s+(\d+)/(\d+)")
CROSS = re.compile(r"(?<=\d)(?:\s*[xX]\s*(?=10\s*\^)|\s+[xX]\s+(?=\d))")  # 1.2x10^3, 25 x 4
SCIENTIFIC = re.compile(r"([-+]?(?:\d[\d,]*\.?\d*|\.\d+))[eE]([-+]?\d{1,3})")
IMAGINARY = re.compile(r"(?<=\d)\s+i(?![A-Za-z])")
CURRENCY = re.compile(r"([-+]?)\s*\\?[$€£¥]\s*(?=[\d.])")
CURRENCY_BEHIND = re.compile(r"(?<=\d)\s*(?:\\?\$|[€£¥])$")
PERCENT = re.compile(r"\s*(?:\\?%|\b(?:percent|pct)\b)$")
REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))")
ARGUMENT = r"(\{[^{}]*\}|\\[A-Za-z]+(?:\{[^{}]*\})?|[A-Za-z0-9])"
FRACTION = re.compile(rf"\\([dtc]?frac)\s*{ARGUMENT}\s*{ARGUMENT}")
FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp"
FUNCTION = re.compile(rf"(?<![\\A-Za-z])({FUNCTIONS})(?![A-Za-z])")
TRIGONOMETRIC = r"(\\(?:sin|cos|tan|cot|sec|csc))\s*"
DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*\^\\circ")
WITH_ANGLE = r"[^(){}]*\^\\circ[^(){}]*"
IN_DEGREES = re.compile(rf"{TRIGONOMETRIC}(?:\(({WITH_ANGLE})\)|\{{({WITH_ANGLE})\}}|((?:\d+(?:\.\d+)?)\s*\^\\circ))")
CHOOSE = re.compile(r"(?<![A-Za-z\\])C\((\d+),\s*(\d+)\)|(?<![\w.])(\d+)C(\d+)(?!\w)")
ABSOLUTE = re.compile(r"(?<![A-Za-z\\])abs\(([^()]*)\)")
INFINITE = re.compile(r"(?<![A-Za-z\\])(?:inf|infinity|oo)(?![A-Za-z])")
UNITED = re.compile(r"(?<=[)\]])\s*U\s*(?=[(\[])")
ELEMENT = re.compile(r"(?<=^[A-Za-z]) in (?=[(\[{\\])")
LONG_EXPONENT = re.compile(r"\^\s*(-?\d*\.\d+|-?\d{2,})")
ABOUT = re.compile(r"^\s*\\approx(?![A-Za-z])\s*")
VALUE_NAMES = (
    "answer|result|total|sum|product|difference|quotient|remainder|value|area|volume|perimeter|circumference|length|"
    "width|height|distance|speed|time|mean|median|mode|average|probability|cost|price|age|radius|diameter|slope|"
    "maximum|minimum"
)
VALUE_NAME = re.compile(
    rf"\s*(?:(?:the|final|correct|total)\s+)*(?:{VALUE_NAMES})\s*[:=]\s*(?=[-+.\d\\$(\[])(?=[^=:]*$)", re.IGNORECASE
)
VALUE_IN_MARKS = re.compile(r"([A-Za-z]\w*\s*=\s*)\$([^$]+)\$")
TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?\s*[AaPp]\.?[Mm]\.?")
NO_PRODUCT = re.compile(r"[Nn]/[Aa]|TBD|DNE|no")  # but text, compared as it is
NAMES = "sqrt|infinity|alpha|beta|gamma|delta|theta|lambda|sigma|omega|arc|sinh|cosh|tanh"
WORDS = re.compile(rf"(?!(?:{NAMES})\b)(?:[A-Za-z][a-z]{{2,}}|[A-Za-z][a-z]?(?= [a-z]{{3}}))(?: [a-z]+)*")
IN_TEXT = re.compile(r"\\(?:text|mathrm|mbox|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
SMALL_WORDS = r"(?:^|(?<=[\s,]))(?:so|of|are|but|not|for|the|per|etc)(?=\s|$)"
# the parser would read a product of letters
PROSE = re.compile(rf"[A-Za-z]{{3,}}\s+[A-Za-z]{{2,}}|(?<![A-Za-z])(?!{NAMES})[A-Za-z][a-z]{{3,}}|{SMALL_WORDS}")

SPACING = re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])|\\[,;:! ]|~|\s+")
LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")


class Unreadable(Exception):
    """The text is not mathematics, or not safe to evaluate."""


def same_text(answer: str, gold: str) -> bool:
    """Whether both are the same, up to the marks around them, spacing and the size of fractions; never if empty."""
    return bool(answer.strip()) and (answer == gold or plain_text(answer) == plain_text(gold))


def plain_signs(text: str) -> str:
    """`text` with LaTeX for the characters of mathematics: ≤, x², ¼."""
    text = SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(SUPERSCRIPTS)}}}", text)
    text = SUBSCRIPT.sub(lambda match: f"_{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    return VULGAR.sub(_fraction, text).translate(SIGNS)


def _fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def plain_text(text: str) -> str:
    """`text` without the marks around it, and with no space but those between letters and digits."""
    spaced = SPACING.sub(" ", unwrap(plain_signs(text)))
    return LOOSE_SPACE.sub("", re.sub(" +", " ", re.sub(r"\\[dtc]frac", r"\\frac", spaced)))


def unwrap(text: str) -> str:
    r"""`text` without the marks around mathematics: $…$, \(…\), \[…\], \boxed{…}, quotes, a final full stop."""
    before = None
    text = JOINED.sub(",", text.strip())
    while text != before:
        before = text
        for opening, closing in MARKS:
            inner = text[len(opening) : -len(closing)]
            if (
                len(text) > len(opening + closing)
                and text == opening + inner + closing
                and opening not in inner.replace(r"\$", "")
            ):
                text = inner.strip()
        if boxed := re.fullmatch(r"\\f?boxed\s*\{(.*)\}", text, re.DOTALL):
            parts = BETWEEN_BOXES.split(boxed[1])
            text = ",".join(map(str.strip, parts)) if all(map(is_closed, parts)) else text
        if named := re.fullmatch(r"\\(?:text|mbox)\s*\{(\s*[-+]?[\d.,]*\d(?:\s*[A-Za-z/%]+)*)\s*\}", text):
            text = named[1].strip()
        text = text.removesuffix(".").rstrip()
    if text.count("$") > 1:
        return text
    return CURRENCY.sub(r"\1", CURRENCY_BEHIND.sub("", text), count=1)


def is_closed(text: str, brackets: str = "{}") -> bool:
    """Whether the brackets of one kind are balanced in `text`."""
    depth = 0
    for sign in text:
        depth += (sign == brackets[0]) - (sign == brackets[1])
        if depth < 0:
            return False
    return depth == 0


def without_name(text: str) -> str:
    """`text` without what it calls its value: Area = 5, Answer: 5, and without an opening \\approx."""
    name = VALUE_NAME.match(text)
    return ABOUT.sub("", text[name.end() :] if name else text)


def plain_to_latex(text: str) -> str:
    """Rewrite plain notations for the parser: 1 234, 2 1/2, 1.5e-3, x**2, 12 cm, pi, ln 2, no solution."""
    text = without_unit(without_name(VALUE_IN_MARKS.sub(r"\1\2", text)))
    if TIME_OF_DAY.fullmatch(text):
        return rf"\text{{{re.sub('[. ]', '', text.lower())}}}"
    if NO_PRODUCT.fullmatch(text):
        return rf"\text{{{text}}}"
    if "$" in text.replace(r"\$", ""):
        raise Unreadable("words around a formula: the whole answer must be one expression")
    if SPACED_THOUSANDS.fullmatch(text):
        return re.sub(r"[^-+\d.]", "", text)
    if mixed := MIXED.fullmatch(text):
        sign, whole, numerator, denominator = mixed.groups()
        return rf"{sign}({whole}+\frac{{{numerator}}}{{{denominator}}})"
    if scientific := SCIENTIFIC.fullmatch(text):
        return rf"{scientific[1].removeprefix('+')}\times 10^{{{scientific[2].removeprefix('+')}}}"
    if NUMBERS_SIDE_BY_SIDE.search(text):
        raise Unreadable("several numbers side by side")
    if WORD_BETWEEN.search(IN_TEXT.sub("|", text)):
        raise Unreadable("words between numbers: the whole answer must be one expression")
    text = _as_functions(text)
    text = IMAGINARY.sub("i", text.replace(r"\varnothing", r"\emptyset"))
    text = FRACTION.sub(closed_fraction, REPEATING.sub(_exact, _each_sign(text)))
    text = re.sub(r"√\s*(\d+(?:\.\d+)?|[A-Za-z])", r"\\sqrt{\1}", text.replace("**", "^"))
    text = LONG_EXPONENT.sub(r"^{\1}", re.sub(r"(\\sqrt\[3\])\s*(?:(\d+|[A-Za-z])|\(([^()]*)\))", r"\1{\2\3}", text))
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", re.sub(r"(?:√|\\sqrt)\s*\(", "sqrt(", text))
    if WORDS.fullmatch(text):
        return rf"\text{{{text}}}"
    if PROSE.search(IN_TEXT.sub(" ", text)):
        raise Unreadable("words around mathematics: the whole answer must be one expression")
    return text


def _as_functions(text: str) -> str:
    r"""ln 2 as \ln 2, \sin 30^\circ as \sin(\frac{30\pi}{180}), C(5,2) as \binom{5}{2}, (0,oo) as (0,\infty)."""
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*(?:\{|(?=\d))", lambda m: r"\sqrt" + m[0][4:].strip(), text)
    text = IN_DEGREES.sub(_in_radians, DEGREE.sub(r"^\\circ", FUNCTION.sub(r"\\\1 ", text)))
    text = CHOOSE.sub(lambda match: rf"\binom{{{match[1] or match[3]}}}{{{match[2] or match[4]}}}", text)
    text = CROSS.sub(r"\\times ", ABSOLUTE.sub(r"|\1|", text))
    return ELEMENT.sub(r"\\in ", UNITED.sub(r"\\cup ", INFINITE.sub(r"\\infty ", text)))


def _in_radians(match: re.Match[str]) -> str:
    function, *angles = match.groups()
    angle = ANGLE.sub(r"\\frac{\1\\pi}{180}", next(filter(None, angles)))
    return f"{function}({angle})"


def closed_fraction(match: re.Match[str]) -> str:
    r"""\frac \pi6 as \frac{\pi}{6}."""
    name, *arguments = match.groups()
    return rf"\{name}" + "".join(each if each.startswith("{") else f"{{{each}}}" for each in arguments)


def _exact(match: re.Match[str]) -> str:
    r"""0.1\overline{6} as the fraction (16 − 1) / 90."""
    whole, fixed, period = match[1] or "0", match[2], match[3] or match[4]
    numerator = int(whole + fixed + period) - int(whole + fixed)
    return rf"\frac{{{numerator}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def _each_sign(text: str) -> str:
    r"""A list whose items hold \pm with both signs written out: 1, 2 \pm x is 1, 2 + x, 2 - x."""
    items = _items(text)
    if len(items) < 2 or r"\pm" not in text:
        return text
    return ",".join(
        each.replace(r"\pm", plus).replace(r"\mp", minus).strip().removeprefix("+")
        for item in items
        for each, plus, minus in ((item, "+", "-"), *([(item, "-", "+")] if r"\pm" in item else []))
    )


def _items(text: str) -> list[str]:
    """The parts of `text` between the commas outside of all brackets."""
    items, depth = [""], 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            items.append("")
        else:
            items[-1] += sign
    return items
