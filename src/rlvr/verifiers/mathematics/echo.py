"""Recognize an answer that only copies a formula of the question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from rlvr.verifiers.mathematics.notation import is_closed, plain_text

NUMERAL = re.compile(r"[-+]?\\?\$?[\d,.]+(?:\\?%|\^\\circ|°)?")
CONSTANT = r"[-+]?(?:[\d./]|\\sqrt|\\pi|\\infty|[{} ])+"
SIGN = r"(?:=|<|>|\\(?:le|ge|lt|gt|leq|geq|leqslant|geqslant|in|ne|neq)(?![A-Za-z]))"
RELATION = re.compile(r"(=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z]))")
TURNED = str.maketrans("<>lg", "><gl")  # of a relation's name: \\le becomes \\ge
SOLVED = re.compile(rf"(?:{CONSTANT}{SIGN} ?)?[A-Za-z] ?{SIGN}{CONSTANT}")  # x=3, 0<x<1
NAMED = re.compile(r"^[A-Za-z]\w*(?:\([A-Za-z]\))?=(?=[^=]*$)")  # y= or f(x)= before the formula
FUNCTIONS = "(?:arc)?(?:sin|cos|tan|sec|csc|cot|log|ln|exp|sqrt|max|min|gcd|lcm|det)h?"
APART = re.compile(  # a word and the bracket next to it, which is no argument: Expand (x+1)(x+2) for all x
    rf"(?<![\\A-Za-z{{])(?!{FUNCTIONS}\b)([A-Za-z]{{2,}}) (?=\()|(\)) (?=[A-Za-z]{{2}})"
)
JOINTS = str.maketrans("", "", "+*")
BEFORE, AFTER = re.compile(r"[\w.\\^+*/)-]"), re.compile(r"[\w^!+*/(-]|\.\d")  # of a longer formula
BRACKETS = 20  # in a formula whose terms and factors are put in order
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

    The order of terms and factors does not matter. A number, a solved relation such as x < 3 and what is written as in
    the gold are no echoes, wherever else they stand. A number is one where the gold asks for another form: 0.5 for the
    gold \\frac{1}{2}.
    """
    if not question or len(plain_text(answer)) < 2:
        return False
    whole, target = _spelled(answer), _formula(gold)
    source = _spelled(APART.sub(r"\1\2|", question))
    formula = _formula(whole)
    if _is_worked_out(formula, target) or SOLVED.fullmatch(_turned(formula)):
        return False
    side = formula.rpartition("=")[2]
    candidates = [whole, formula, _turned(formula), *([] if _is_worked_out(side, target) else [side])]
    return any(_is_within(candidate, source) or _is_reordered_in(candidate, source) for candidate in candidates)


def _is_worked_out(formula: str, target: str) -> bool:
    if OUTER.sub("", formula) == OUTER.sub("", target) or SOLVED.fullmatch(formula):
        return True
    if formula.count("(") <= BRACKETS and _in_order(formula) == _in_order(target):
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


def _is_reordered_in(formula: str, source: str) -> bool:
    """Whether a whole formula of `source` has the terms and factors of `formula`, in whatever order."""
    if formula.count("(") > BRACKETS or "," in formula:
        return False
    ordered = _in_order(formula)
    return any(_in_order(part) == ordered for part in _of_the_same_signs(formula, source) if is_closed(part, "()"))


def _of_the_same_signs(formula: str, source: str) -> Iterator[str]:
    """The parts of `source` that consist of the signs of `formula`, + and * aside, and belong to no longer formula."""
    wanted = Counter(formula.translate(JOINTS))
    places = [at for at, sign in enumerate(source) if sign not in "+*"]
    count = wanted.total()
    found = Counter(source[at] for at in places[: count - 1])
    for first, last in zip(places, places[count - 1 :], strict=False):
        found[source[last]] += 1
        before, after = source[max(first - 1, 0) : first], source[last + 1 : last + 3]
        if found == wanted and not BEFORE.fullmatch(before) and not AFTER.match(after):
            yield source[first : last + 1]
        found[source[first]] -= 1


def _in_order(formula: str) -> str:
    """`formula` with the terms of its sums and the factors of its products sorted; what stands around a / stays."""
    return "".join(part if at % 2 else _sum(part) for at, part in enumerate(RELATION.split(formula)))


def _sum(text: str) -> str:
    terms = [""]
    for at, (sign, depth) in enumerate(_depths(text)):
        if depth == 0 and sign in "+-" and (at == 0 or text[at - 1] not in "^_*/|,"):
            terms.append(sign)
        else:
            terms[-1] += sign
    signed = [term if term[0] in "+-" else f"+{term}" for term in terms if term]
    return "".join(sorted(term[0] + _product(term[1:]) for term in signed))


def _product(term: str) -> str:
    if any(depth == 0 and sign in "/,|" for sign, depth in _depths(term)) or not is_closed(term, "()"):
        return term
    return "*".join(sorted(map(_factor, filter(None, _factors(term)))))


def _factors(term: str) -> list[str]:
    """The factors of a product: parts between the *, and brackets that are no argument, each with its exponent."""
    factors = [""]
    for at, (sign, depth) in enumerate(_depths(term)):
        before = term[at - 1 : at]
        opens = sign == "(" and depth == 1 and not re.match(r"[A-Za-z^_}]", before)
        follows = depth == 0 and sign not in ")^!" and factors[-1].startswith("(") and before in (")", "!")
        if sign == "*" and depth == 0:
            factors.append("")
        elif opens or follows:
            factors.append(sign)
        else:
            factors[-1] += sign
    return factors


def _factor(text: str) -> str:
    """A factor in one spelling; one in brackets has its inside in order."""
    bracket = re.fullmatch(r"\((.*)\)(\^\w|\^\{\w+\}|)", text)
    if bracket is None or not is_closed(bracket[1], "()"):
        return text
    return f"({_in_order(bracket[1])}){bracket[2]}"


def _depths(text: str) -> list[tuple[str, int]]:
    """Each sign with the number of brackets that are open around it; an opening one counts itself."""
    depth, found = 0, []
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        found.append((sign, depth))
    return found


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
