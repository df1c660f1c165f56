"""Parse an answer with latex2sympy."""

from __future__ import annotations

import re
from functools import lru_cache

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, convert_to_pct, latex2sympy, normalize_latex
from math_verify.grader import should_treat_as_complex
from sympy import Basic, Eq, FiniteSet, I, Intersection, MatrixBase, Set, Union
from sympy.core.relational import Relational

from rlvr.verifiers.mathematics.limits import refuse_bombs
from rlvr.verifiers.mathematics.notation import PERCENT, Unreadable, plain_signs, plain_to_latex, unwrap
from rlvr.verifiers.mathematics.units import GAP

LENGTH = 2000  # maximum characters of an answer

# units are dropped by notation.py: the package's own list holds single letters, which would turn 2t into 2
NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
JOIN = re.compile(
    rf"{GAP}(?:,{GAP})?(?:\\(?:text|mbox|textrm|mathrm)\s*\{{\s*(or|and)\s*\}}|(?<=\s)(or|and)(?=\s)){GAP}"
)
INTERVAL = re.compile(r"\s*[(\[][^()\[\]]*,[^()\[\]]*[)\]]\s*")
RELATION = re.compile(r"[<>]|\\(?:le|ge|lt|gt|leq|geq|leqslant|geqslant)(?![A-Za-z])")


@lru_cache(maxsize=256)  # the completions of a group share a gold
def read(text: str) -> Basic | MatrixBase:
    """Parse all of `text` as one expression. Raises Unreadable."""
    if len(text) > LENGTH:
        raise Unreadable(f"{len(text):,} characters; at most {LENGTH:,} are allowed")
    bare = unwrap(plain_signs(text)).replace("\n", " ")
    refuse_bombs(bare)
    words = [word for match in JOIN.finditer(bare) for word in match.groups() if word]
    if len(set(words)) == 1 and (RELATION.search(bare) or (words[0] == "or" and _are_intervals(JOIN.split(bare)[::3]))):
        sets = [_as_set(_expression(part)) for part in JOIN.sub("\n", bare).split("\n")]
        return Union(*sets) if words[0] == "or" else Intersection(*sets)
    return _expression(JOIN.sub(",", bare) if words else bare)


def _are_intervals(parts: list[str]) -> bool:
    """Whether all are intervals and not points: one is half open, or has no end."""
    marks = [part.strip()[:1] + part.strip()[-1:] for part in parts]
    is_one = any(mark in ("(]", "[)") for mark in marks) or any("infty" in part for part in parts)
    return is_one and all(map(INTERVAL.fullmatch, parts))


def _expression(text: str) -> Basic | MatrixBase:
    number = unwrap(PERCENT.sub("", text))
    source = normalize_latex(plain_to_latex(number), config=NORMALIZATION)
    is_complex = should_treat_as_complex(source)
    try:
        expression = latex2sympy(source, is_real=not is_complex, normalization_config=None)
    except MemoryError:
        raise
    except Exception as error:  # the parser raises many kinds of errors
        raise Unreadable(f"the parser reports: {ascii(str(error).partition(chr(10))[0])[:200]}") from None
    if not isinstance(expression, Basic | MatrixBase):
        raise Unreadable(f"it reads as a {type(expression).__name__}")
    if is_complex:
        expression = expression.xreplace({symbol: I for symbol in expression.free_symbols if str(symbol) == "i"})
    return _percent(expression) if PERCENT.search(text) else expression


def _percent(expression: Basic | MatrixBase) -> Basic | MatrixBase:
    """The expression before a percent sign; of an equation or inequality its right side, as in x = 50%."""
    if isinstance(expression, Relational):
        return expression.func(expression.lhs, convert_to_pct(expression.rhs), evaluate=False)
    return convert_to_pct(expression)


def _as_set(expression: Basic | MatrixBase) -> Set:
    """The values that a relation in one unknown allows. Raises Unreadable for anything else."""
    if isinstance(expression, Set):
        return expression
    if isinstance(expression, Eq) and expression.lhs.is_Symbol:
        return FiniteSet(expression.rhs)
    try:
        return expression.as_set()
    except Exception:
        raise Unreadable("only relations in one unknown can be joined by or and and") from None
