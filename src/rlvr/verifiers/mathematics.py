"""Mathematics in LaTeX or plain notation, compared by math-verify. Only called in a worker.

The whole answer must be one expression (or relation, set, interval, list). Prose is not searched for expressions, since
an answer with several candidates would then be graded by its luckiest one. math-verify's time limits use signals and
are switched off: the pool sets the deadline.
"""

from __future__ import annotations

import logging
import math
import re
from functools import lru_cache

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, convert_to_pct, latex2sympy, normalize_latex
from math_verify import verify as equals
from math_verify.grader import should_treat_as_complex
from sympy import Basic, Expr, MatrixBase
from sympy.core.random import seed

from rlvr.verifiers.verdict import GOLD, UNPARSABLE, Verdict, fault, right_if, wrong

LENGTH = 2000  # maximum characters of an answer
DEPTH = 15  # maximum nesting of brackets; the parser's time grows exponentially with it
DIGITS = 300  # maximum digits of one number
SMALL = 0.001
POWER_DIGITS = 10_000  # maximum digits of an exponent that is itself a power

# units are dropped by UNIT below: the package's own list holds single letters, which would turn 2t into 2
NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
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
        "°": r"^\circ ",
        "²": "^{2}",
        "³": "^{3}",
        "½": r"\frac{1}{2}",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
NUMBER = r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+|\\d?frac\{\d+\}\{\d+\}|\d+/\d+)"
JOINED = re.compile(r"\$\s*(?:,\s*(?:and|or)?|and|or)\s*\$")  # between $a$ and $b$
SPACED_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:\\[,;! ]|~|\{,\}|\s)\d{3})+(?:\.\d+)?")
# the parser would add them
NUMBERS_SIDE_BY_SIDE = re.compile(r"(?<![_^\d.,])(?<!frac )(?<!frac)\d[\d.]*(?:,\d{3})*(?:\s|~|\\[,;! ])+\d")
MIXED = re.compile(r"([-+]?)(\d+)\s+(\d+)/(\d+)")
SCIENTIFIC = re.compile(r"([-+]?(?:\d[\d,]*\.?\d*|\.\d+))[eE]([-+]?\d{1,3})")
CURRENCY = re.compile(r"([-+]?)\s*\\?[$€£¥]\s*(?=[\d.])")
PERCENT = re.compile(r"\s*(?:\\?%|\b(?:percent|pct)\b)$")
TEXT_UNIT = re.compile(r"(?<=[\d})])\s*\\(?:text|mathrm|textrm|mbox)\s*\{[^{}]*\}(?:\^\{?\d\}?)?$")
SHORT_UNITS = "mm|cm|dm|km|mg|kg|ml|ft|in|yd|mi|lb|oz|hr|hrs|min|sec|ms|mph|m|g|s|h|l"
NO_UNIT = (
    "and|or|not|nor|but|to|from|more|less|plus|minus|times|over|mod|divided|hundred|thousand|million|billion|trillion|"
    "dozen|half|halves|third|thirds|quarter|quarters|squared|cubed|pi|sqrt|sin|cos|tan|log|exp|inf|infinity|if|with|is"
)
UNIT = re.compile(
    rf"({NUMBER})(?:\s*(?:{SHORT_UNITS})(?:\^\{{?\d\}}?)?|\s+(?!(?:{NO_UNIT})\b)[A-Za-z]{{3,}}(?:\s[A-Za-z]{{3,}})?)"
)
WORDS = re.compile(r"(?!(?:sqrt|infinity|alpha|beta|theta)\b)[A-Za-z][a-z]{2,}(?: [a-z]+)*")
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}\s+[A-Za-z]{2,}")  # the parser would read a product of letters

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns about every missing time limit


class Unreadable(Exception):
    """The text is not mathematics, or not safe to evaluate."""


def verify(answer: str, gold: str) -> Verdict:
    """Right if math-verify finds `answer` equal to `gold`: 50 % equals 0.5 and 50, x = 3 equals 3, and so on.

    Decimals are compared to 6 places; numbers below 0.001 must also agree to a relative difference of 0.001.
    Units of measure after a number are dropped. Source: https://github.com/huggingface/Math-Verify
    """
    try:
        expected = read(gold)
    except Unreadable as error:
        return fault(GOLD, f"the gold {gold[:100]!a} is not mathematics: {error}")
    try:
        expression = read(answer)
    except Unreadable as error:
        return wrong(UNPARSABLE, str(error))
    seed(0)  # sympy tries random numbers: the verdict must not depend on earlier calls
    is_equal = equals(expected, expression, allow_set_relation_comp=True, timeout_seconds=None)
    return right_if(is_equal and not differs_in_size(expression, expected))


def differs_in_size(answer: Basic | MatrixBase, gold: Basic | MatrixBase) -> bool:
    """Whether both are numbers below 0.001 that differ in three digits, though not in six decimal places."""
    if not all(isinstance(side, Expr) and side.is_number and side.is_real for side in (answer, gold)):
        return False
    answer_value, gold_value = float(answer), float(gold)
    size = max(abs(answer_value), abs(gold_value))
    return size < SMALL and abs(answer_value - gold_value) > SMALL * size


@lru_cache(maxsize=256)  # the completions of a group share a gold
def read(text: str) -> Basic | MatrixBase:
    """Parse all of `text` as one expression. Raises Unreadable."""
    if len(text) > LENGTH:
        raise Unreadable(f"{len(text):,} characters; at most {LENGTH:,} are allowed")
    bare = unwrap(text.translate(SIGNS))
    refuse_bombs(bare)
    number = PERCENT.sub("", bare)
    source = normalize_latex(plain_to_latex(number), config=NORMALIZATION)
    try:
        expression = latex2sympy(source, is_real=not should_treat_as_complex(source), normalization_config=None)
    except MemoryError:
        raise
    except Exception as error:  # the parser raises many kinds of errors
        raise Unreadable(f"the parser reports: {ascii(str(error).partition(chr(10))[0])[:200]}") from None
    if not isinstance(expression, Basic | MatrixBase):
        raise Unreadable(f"it reads as a {type(expression).__name__}")
    return convert_to_pct(expression) if number != bare else expression


def unwrap(text: str) -> str:
    r"""`text` without the marks around mathematics: $…$, \(…\), \[…\], \boxed{…}, quotes, a final full stop."""
    before = None
    text = JOINED.sub(",", text.strip())
    while text != before:
        before = text
        for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ('"', '"')):
            inner = text[len(opening) : -len(closing)]
            if len(text) > len(opening + closing) and text == opening + inner + closing and opening not in inner:
                text = inner.strip()
        if (boxed := re.fullmatch(r"\\f?boxed\s*\{(.*)\}", text, re.DOTALL)) and is_closed(boxed[1]):
            text = boxed[1].strip()
        text = text.removesuffix(".").rstrip()
    return CURRENCY.sub(r"\1", text, count=1) if text.count("$") <= 1 else text


def is_closed(text: str) -> bool:
    """Whether the braces of `text` are balanced."""
    depth = 0
    for sign in text:
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return False
    return depth == 0


def plain_to_latex(text: str) -> str:
    """Rewrite plain notations for the parser: 1 234, 2 1/2, 1.5e-3, x**2, 12 cm, pi, no solution."""
    if "$" in text.replace(r"\$", ""):
        raise Unreadable("words around a formula: the whole answer must be one expression")
    text = TEXT_UNIT.sub("", text)
    if unit := UNIT.fullmatch(text):
        text = unit[1]
    if SPACED_THOUSANDS.fullmatch(text):
        return re.sub(r"[^-+\d.]", "", text)
    if mixed := MIXED.fullmatch(text):
        sign, whole, numerator, denominator = mixed.groups()
        return rf"{sign}({whole}+\frac{{{numerator}}}{{{denominator}}})"
    if scientific := SCIENTIFIC.fullmatch(text):
        return rf"{scientific[1].removeprefix('+')}\times 10^{{{scientific[2].removeprefix('+')}}}"
    if NUMBERS_SIDE_BY_SIDE.search(text):
        raise Unreadable("several numbers side by side")
    text = re.sub(r"√\s*(\d+(?:\.\d+)?|[A-Za-z])", r"\\sqrt{\1}", text.replace("**", "^"))
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", re.sub(r"(?:√|\\sqrt)\s*\(", "sqrt(", text))
    if WORDS.fullmatch(text):
        return rf"\text{{{text}}}"
    if PROSE.search(re.sub(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}", "", text)):
        raise Unreadable("words around mathematics: the whole answer must be one expression")
    return text


EXPONENT = r"\s*\^\s*[{(\s]*-?\s*(\d+)"
POWER_OF_POWER = re.compile(rf"(?=(?<!\d)(\d+)[\s)}}]*{EXPONENT}[\s)}}]*{EXPONENT})")
HUGE_EXPONENT = re.compile(r"\^[{(\s]*-?\s*\d{5,}")
HUGE_FACTORIAL = re.compile(r"\d{5,}[\s)}]*!|!(?:[\s)}]*!){2,}|[)}]\s*!\s*[)}]\s*!")


def refuse_bombs(text: str) -> None:
    """Raise Unreadable for an expression that would only keep the processor busy until the deadline."""
    depth = deepest = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    if deepest > DEPTH:
        raise Unreadable(f"brackets nested {deepest} deep; at most {DEPTH} are allowed")
    if re.search(rf"\d{{{DIGITS + 1},}}", text):
        raise Unreadable(f"a number of more than {DIGITS} digits")
    plain = text.replace("**", "^")
    if HUGE_EXPONENT.search(plain) or HUGE_FACTORIAL.search(plain):
        raise Unreadable("a huge exponent or factorial")
    for _, base, exponent in POWER_OF_POWER.findall(plain):
        if int(base) > 1 and int(exponent) * math.log10(int(base)) > math.log10(POWER_DIGITS):
            raise Unreadable("a tower of powers")


verify("$1$", "1")  # builds the parser's tables while the module is loaded, before any deadline
