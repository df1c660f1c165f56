"""Recognize an answer that only copies a formula of the question."""

from __future__ import annotations

from rlvr.verifiers.mathematics.notation import PERCENT, plain_text, unwrap, without_name
from rlvr.verifiers.mathematics.tokens import CLOSING, OPENING, is_number, tokens
from rlvr.verifiers.mathematics.units import without_unit

TURNED = {"=": "=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}  # a relation, read from right to left
RELATIONS = frozenset((*TURNED, "!=", "in"))
CONSTANT = frozenset(("sqrt", "pi", "infty", "/", OPENING, CLOSING))
SIGNED = frozenset("+-")
BRACKETS = frozenset("()[]{}")


def is_echo(answer: str, gold: str, question: str) -> bool:
    """Whether a right `answer` is a formula of the question that still has to be worked out.

    A number, a solved relation such as x < 3 and what is written as in the gold are no echoes, wherever else they
    stand. A number is one where the gold asks for another form: 0.5 for the gold \\frac{1}{2}.
    """
    if not question or len(plain_text(answer)) < 2:
        return False
    whole, target = _formula(answer), _formula(gold)
    formula = _without_name(whole)
    if _is_worked_out(formula, target) or _is_solved(formula):
        return False
    side = formula[_last(formula, "=") + 1 :]
    source = tokens(question)
    candidates = [whole, formula, _turned(whole), *([] if _is_worked_out(side, target) else [side])]
    return any(_is_within(candidate, source) for candidate in candidates)


def _formula(text: str) -> list[str]:
    """The tokens of an answer, without its unit and brackets around the whole."""
    formula = tokens(PERCENT.sub("", without_unit(without_name(unwrap(text)))))
    if formula[-2:] == ["^", "circ"]:
        formula = formula[:-2]
    while len(formula) > 2 and formula[0] == OPENING and _closes(formula) == len(formula) - 1:
        formula = formula[1:-1]
    return formula


def _closes(formula: list[str]) -> int:
    """Where the bracket that opens `formula` closes; -1 where it does not."""
    depth = 0
    for place, token in enumerate(formula):
        depth += (token == OPENING) - (token == CLOSING)
        if depth == 0:
            return place
    return -1


def _without_name(formula: list[str]) -> list[str]:
    """Without y = or f(x) = before it, or = y behind."""
    for order in (formula, _turned(formula)):
        place = order.index("=") if order.count("=") == 1 else -1
        if place in (1, 2) and all(map(str.isalpha, order[:place])):
            return order[place + 1 :]
    return formula


def _is_worked_out(formula: list[str], target: list[str]) -> bool:
    if [x for x in formula if x not in BRACKETS] == [x for x in target if x not in BRACKETS]:
        return True
    return _is_numeral(formula) and (_is_numeral(target) or not {"sqrt", "/", "^"} & set(target))


def _is_numeral(formula: list[str]) -> bool:
    """A number, or a list of them."""
    bare = [token for token in formula if token not in BRACKETS]
    if "," in bare:
        place = bare.index(",")
        return _is_numeral(bare[:place]) and _is_numeral(bare[place + 1 :])
    digits = formula[1:] if formula[:1] and formula[0] in SIGNED else formula
    return len(digits) == 1 and is_number(digits[0])


def _is_solved(formula: list[str]) -> bool:
    """x = 3, 3 > x or 0 < x < 1: one letter, and constants."""
    parts: list[list[str]] = [[]]
    for token in formula:
        if token in RELATIONS:
            parts.append([])
        else:
            parts[-1].append(token)
    letters = [part for part in parts if len(part) == 1 and _is_letter(part[0])]
    others = [part for part in parts if part not in letters]
    if len(letters) != 1 or not 2 <= len(parts) <= 3 or (len(parts) == 3 and parts[1] != letters[0]):
        return False
    return all(map(_is_constant, others))


def _is_constant(part: list[str]) -> bool:
    digits = part[1:] if part[:1] and part[0] in SIGNED else part
    return bool(digits) and all(is_number(token) or token in CONSTANT for token in digits)


def _turned(formula: list[str]) -> list[str]:
    """The same relation from right to left, 5 > x for x < 5; other formulas as they are."""
    places = [place for place, token in enumerate(formula) if token in RELATIONS]
    if len(places) != 1 or formula[places[0]] not in TURNED:
        return formula
    return [*formula[places[0] + 1 :], TURNED[formula[places[0]]], *formula[: places[0]]]


def _last(formula: list[str], token: str) -> int:
    """Its last place, or -1."""
    return max((place for place, each in enumerate(formula) if each == token), default=-1)


def _is_within(formula: list[str], source: list[str]) -> bool:
    """Whether `source` holds `formula`, and not as a part of a power or of a product without a sign."""
    size = len(formula)
    places = [n for n in range(len(source) - size + 1) if formula and source[n : n + size] == formula]
    return any(_is_apart(source[:place][-1:], formula, source[place + size :][:1]) for place in places)


def _is_apart(before: list[str], formula: list[str], after: list[str]) -> bool:
    if before and (before[0] in ("^", "_") or _multiply(before[0], formula[0])):
        return False
    return not after or not (after[0] in ("^", "!", "_") or _multiply(formula[-1], after[0]))


def _multiply(left: str, right: str) -> bool:
    """Whether two neighbours are factors: 2x, x(, )(; words are none."""
    is_factor = is_number(left) or left == CLOSING or _is_letter(left)
    return is_factor and (right == OPENING or _is_letter(right))


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha()
