"""Recognize an answer that only copies a formula of the question."""

from __future__ import annotations

import re

from rlvr.verifiers.mathematics.notation import is_closed, plain_text

NUMERAL = re.compile(r"[-+]?\\?\$?[\d,.]+(?:\\?%|\^\\circ|°)?")
CONSTANT = r"[-+]?(?:[\d./]|\\sqrt|\\pi|\\infty|[{} ])+"
SIGN = r"(?:=|<|>|\\(?:le|ge|lt|gt|leq|geq|leqslant|geqslant|in|ne|neq)(?![A-Za-z]))"
RELATION = re.compile(r"(=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z]))")
TURNED = str.maketrans("<>lg", "><gl")  # of a relation's name: \\le becomes \\ge
SOLVED = re.compile(rf"(?:{CONSTANT}{SIGN} ?)?[A-Za-z] ?{SIGN}{CONSTANT}")  # x=3, 0<x<1
NAMED = re.compile(r"^[A-Za-z]\w*(?:\([A-Za-z]\))?=(?=[^=]*$)")  # y= or f(x)= before the formula
OUTER = re.compile(r"\\[{}]|[{}()\[\]]|\\(?:text|mathrm|mbox)")
SAME = (  # spellings of the same formula, in order
    (re.compile(r"\$"), "|"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?:√|(?<![A-Za-z\\])sqrt) ?(?:\((\w+)\)|(\w+))"), r"\\sqrt{\1\2}"),
    (re.compile(r"\\[dt]binom"), r"\\binom"),
    (re.compile(r"([_^])\{(-?\w+)\}"), r"\1\2"),
    (re.compile(r"(\\log_\w+) ?[{(](\w+)[)}]"), r"\1 \2"),
    (re.compile(r"\s*(?:\\times|\\cdot|\*)(?![A-Za-z])\s*"), "*"),
    (re.compile(r"\\[dtc]?frac ?(?:\{([^{}]*)\}\{([^{}]*)\}|(\d) ?(\d))"), r"\1\3/\2\4"),
    (re.compile(r"(\\[A-Za-z]+)\{(\w)\}"), r"\1 \2"),
    (re.compile(r"(\\[A-Za-z]+)(?=\d)"), r"\1 "),
    (re.compile(r"\{(\w)\}"), r"\1"),
    (re.compile(r"(?<=\d) (?=\d)"), ""),
)


def is_echo(answer: str, gold: str, question: str) -> bool:
    """Whether a right `answer` is a formula of the question that still has to be worked out.

    A number, a solved relation such as x < 3 and what is written as in the gold are no echoes, wherever else they
    stand. A number is one where the gold asks for another form: 0.5 for the gold \\frac{1}{2}.
    """
    if not question or len(plain_text(answer)) < 2:
        return False
    whole, target, source = _spelled(answer), _formula(gold), _spelled(question)
    formula = _formula(whole)
    if _is_worked_out(formula, target) or SOLVED.fullmatch(_turned(formula)):
        return False
    side = formula.rpartition("=")[2]
    candidates = [whole, formula, _turned(formula), *([] if _is_worked_out(side, target) else [side])]
    return any(_is_within(candidate, source) for candidate in candidates)


def _is_worked_out(formula: str, target: str) -> bool:
    if OUTER.sub("", formula) == OUTER.sub("", target) or SOLVED.fullmatch(formula):
        return True
    if not NUMERAL.fullmatch(formula):
        return False
    return NUMERAL.fullmatch(target) is not None or not re.search(r"\\sqrt|[/^]", target)


def _turned(formula: str) -> str:
    """The same relation from right to left, 5 > x for x < 5; other formulas as they are."""
    parts = RELATION.split(formula)
    if len(parts) != 3:
        return formula
    left, sign, right = parts
    if len(sign) == 1:
        return f"{right}{sign.translate(TURNED)}{left}"
    return f"{right.strip()}\\{sign[1].translate(TURNED)}{sign[2:]} {left.strip()}"


def _is_within(formula: str, source: str) -> bool:
    return re.search(rf"(?<![\w.\\^]){re.escape(formula)}(?![\w^!]|\.\d)", source) is not None


def _formula(text: str) -> str:
    """The formula of an answer, without the name it is given and brackets around the whole."""
    formula = NAMED.sub("", _spelled(text), count=1)
    while formula.startswith("(") and formula.endswith(")") and is_closed(formula[1:-1], "()"):
        formula = formula[1:-1]
    return formula


def _spelled(text: str) -> str:
    """`text` without spacing, in one spelling of its fractions, products and braces; a bar stands for each $."""
    text = plain_text(text)
    for pattern, replacement in SAME:
        text = pattern.sub(replacement, text)
    return text
