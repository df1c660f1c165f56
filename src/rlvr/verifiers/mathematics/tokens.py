"""Formulas as lists of tokens, so that other spellings of the same formula are the same list."""

from __future__ import annotations

import re

from rlvr.verifiers.mathematics.notation import CROSS, FRACTION, SPACING, closed_fraction, plain_signs, unwrap

OPENING, CLOSING = "(", ")"
NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
TOKEN = re.compile(rf"{NUMBER}|\\?[A-Za-z]+|<=|>=|!=|\\[{{}}]|\S")
IN_TEXT = re.compile(r"\\(?:text|mathrm|mbox|operatorname|textbf|mathbf)\s*\{([^{}]*)\}")

CHOICES = re.compile(r"\\[dt]?binom\s*(\d)\s*(\d)")
NAMES = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=", "lt": "<", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "gt": ">", "ne": "!=", "neq": "!=", "dfrac": "frac", "tfrac": "frac",
    "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "√": "sqrt", "infinity": "infty",
}  # fmt: skip
PLAIN_NAMES = frozenset(("infinity",))  # of NAMES, those that are read without a backslash
BRACES = {"{": OPENING, "}": CLOSING, r"\{": "{", r"\}": "}"}


def tokens(text: str) -> list[str]:
    r"""Of `text`: fractions as quotients, products by one sign or none, no brackets around one token or twice.

    2\cdot(3+4) is 2 ( 3 + 4 ), \frac{2+4}{3} is ( 2 + 4 ) / 3, \sqrt{98} is sqrt 98.
    """
    text = SPACING.sub(" ", unwrap(plain_signs(text)).replace("**", "^"))
    text = CHOICES.sub(r"\\binom{\1}{\2}", text)
    text = IN_TEXT.sub(r" \1 ", CROSS.sub("*", FRACTION.sub(closed_fraction, text)))
    text = text.replace(r"\$", " ").replace("$", " ").replace(r"\%", "%")
    named = [_named(token) for token in TOKEN.findall(text)]
    return _without_products(_without_brackets(_quotients(named)))


def _named(token: str) -> str:
    if token in BRACES:
        return BRACES[token]
    name = token.removeprefix("\\")
    return NAMES.get(name, name) if name != token or not token.isalpha() or token in PLAIN_NAMES else token


def _quotients(named: list[str]) -> list[str]:
    """frac ( a ) ( b ) as ( a ) / ( b )."""
    done: list[str] = []
    waiting: list[int] = []  # depths at which a numerator ends
    depth, is_numerator = 0, False
    for token in named:
        if token == "frac":
            is_numerator = True
            continue
        depth += (token == OPENING) - (token == CLOSING)
        if is_numerator:
            waiting.append(depth - 1 if token == OPENING else depth)
            is_numerator = False
        done.append(token)
        if waiting and waiting[-1] == depth and token != OPENING:
            waiting.pop()
            done.append("/")
    return done


def _without_brackets(listed: list[str]) -> list[str]:
    done: list[str] = []
    open_at: list[int] = []
    last = (-1, -1)  # of the brackets that were closed last
    for token in listed:
        if token == OPENING:
            open_at.append(len(done))
        if token != CLOSING or not open_at:
            done.append(token)
            continue
        start = open_at.pop()
        inner = done[start + 1 :]
        if len(inner) == 1 or last == (start + 1, len(done) - 1):
            done[start:] = inner
            last = (start, len(done) - 1)
        else:
            done.append(token)
            last = (start, len(done) - 1)
    return done


def _without_products(listed: list[str]) -> list[str]:
    """A product's sign stays between two numbers only."""
    around = zip(["", *listed], listed, [*listed[1:], ""], strict=False)
    return [token for before, token, after in around if token != "*" or (is_number(before) and is_number(after))]


def is_number(token: str) -> bool:
    return re.fullmatch(NUMBER, token) is not None
