"""The gold in other notations is right, what is only near it is wrong, and a bad gold is our fault."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.mathematics import verify

SAME = {
    "1234": (
        "1,234 | 1234.0 | $1,234 | \\$1,234 | 1 234 | \\boxed{1234} | 1234 apples | $1234$ | 1\\,234 | 1{,}234 | "
        "1234. | \\(1234\\) | \\[1234\\] | $$1234$$ | +1234 | 1.234e3 | 1234 cm | 1234\\text{ dollars} | **1234** | "
        "x=1234 | \\boxed{\\$1,234} | 2468/2 | €1234 | 1,234.00 | 01234 | 1.234 \\times 10^3 | 1.234×10^3 | "
        "1234 square meters"
    ),
    "\\frac{1}{2}": (
        "1/2 | \\frac12 | 0.5 | $\\frac{1}{2}$ | \\dfrac{1}{2} | 50\\% | 50% | ½ | 2/4 | .5 | 0.50 | \\tfrac{2}{4} | "
        "\\boxed{\\frac{1}{2}} | 2^{-1} | sqrt(1/4) | \\sqrt{\\frac{1}{4}} | 1:2 | 5e-1 | 50 percent"
    ),
    "(1,2]": "$(1,2]$ | \\left(1,2\\right] | (1, 2] | x\\in(1,2] | 1<x\\le 2 | 1 < x ≤ 2",
    "\\{1,2\\}": "{1,2} | 1,2 | 2,1 | 1 and 2 | \\{2,1\\} | $1$ and $2$ | $1$, $2$ | 1, 2 | \\left\\{1,2\\right\\}",
    "x=3": "3 | x = 3 | 3=x | $x=3$",
    "3x+2": "2+3x | $3x + 2$ | 3*x+2 | 3\\cdot x+2 | x+2x+2",
    "\\sqrt{2}/2": (
        "\\frac{\\sqrt{2}}{2} | 1/\\sqrt{2} | sqrt(2)/2 | \\sqrt2/2 | 0.707107 | 2^{-1/2} | √2/2 | √(2)/2 | \\sqrt(2)/2"
    ),
    "\\pi": "pi | π | 3.141593 | \\frac{2\\pi}{2}",
    "no solution": "No solution | \\text{no solution} | $\\text{No solution}$",
    "yes": "Yes | \\text{yes}",
    "2t": "2 t | t*2",
    "25\\text{ cm}^2": "25 | 25 cm^2 | 25 cm",
    "2\\frac12": "5/2 | 2.5 | 2 1/2",
    "-2\\frac12": "-5/2 | -2.5 | -2 1/2",
    "x^2+1": "x**2+1 | 1+x² | x^{2}+1",
    "90^\\circ": "90 | 90°",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}": "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
    "x>2": "2<x | (2,\\infty)",
    "(-\\infty,3)\\cup(4,5]": "(4,5]\\cup(-\\infty,3) | (-∞,3)∪(4,5]",
    "10!": "3628800",
    "\\binom{5}{2}": "10 | \\frac{5!}{2!3!}",
    "e^{x^2}": "\\exp(x^2)",
    "2^{2^3}": "256",
    "2^{2^n}": "2^{2^{n}}",
    "-5": "−5 | -5.0 | -\\frac{10}{2}",
    "3+4i": "4i+3",
    "\\frac{x^2-1}{x-1}": "x+1",
    "1000000": "10^6 | 1,000,000 | 1e6 | 1 000 000",
    "6.02e23": "6.02\\times10^{23}",
    "8": "2^3 | \\log_2 256",
    "y=2x+1": "2x+1 | y=1+2x | y-2x=1",
    "\\emptyset": "∅",
    "\\frac{1}{3}": "0.333333 | .3333333 | 2/6",
    "6.626e-34": "6.626 \\times 10^{-34} | 6.6260e-34",
    "1/30000": "0.0000333333",
    "(4,3)": "(4, 3) | \\left(4,3\\right)",
}
NEAR = {
    "1234": (
        "1235 | 12340 | 123.4 | 1,235 | 1 234 5 | 1234 or 1235 | 1233, 1234 | -1234 | 1234 thousand | 1234 plus | "
        "The answer is 1234 | 1234 1234 | 1 2 3 4 | $5$ $1234$ | $1233$ or $1234$ | 1234x | 1234! | 1234\\pi | "
        "\\boxed{1234} \\boxed{5} | 1234 and more | [1234,1235] | 1234i | 1234=1235 | 1234 ± 1 | 0 1 2 3 1234"
    ),
    "3": "3·2 | 1 2 | 1 2, 3 | 1\\,2 | 3} | (3 | 3] | 3; 4 | x | \\pm 3",
    "\\frac{1}{2}": "1/3 | 2 | 0.51 | -1/2 | 12 | 1 2 | \\frac{2}{1} | 5%",
    "(1,2]": "(1,2) | [1,2] | 1,2 | (1,3] | 2 | 1 | 1<x<2",
    "\\{1,2\\}": "1 | 2 | \\{1,2,3\\} | 12 | {1,3} | 1,2,3",
    "x=3": "x=4 | y=4 | 4 | x>3",
    "3x+2": "3x | 3x-2 | 2x+3 | 3y+2 | 5",
    "\\sqrt{2}/2": "\\sqrt{2} | 0.7 | 0.71 | \\sqrt{3}/2",
    "\\pi": "3.14 | 22/7 | 2pi | 3",
    "no solution": "solution | 0 | no",
    "yes": "no | sye | 1",
    "2t": "2 | t | 3t",
    "2\\frac12": "1 | 3/2",
    "-2\\frac12": "-3/2 | 5/2",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}": "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}",
    "x>2": "x<2 | x\\ge 2 | 2",
    "(3,4)": "(4,3) | [3,4]",
    "(4,3)": "(5,2) | (3,4) | \\emptyset",
    "\\frac{1}{3}": "0.33 | 0.3334 | 0.3",
    "6.626e-34": "6.7e-34 | 6.626e-33 | 0 | -6.626e-34",
    "1/30000": "0.000034 | 0.00003",
    "0": "1e-9 | 0.0000001",
}


def cases(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(gold, answer) for gold, answers in table.items() for answer in [gold, *answers.split(" | ")]]


@pytest.mark.parametrize(("gold", "answer"), cases(SAME))
def test_other_notations_are_right(gold: str, answer: str) -> None:
    assert verify(answer, gold).outcome == "right"


@pytest.mark.parametrize(("gold", "answer"), [case for case in cases(NEAR) if case[0] != case[1]])
def test_near_misses_are_wrong(gold: str, answer: str) -> None:
    assert verify(answer, gold).outcome == "wrong"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "{",
        "\\",
        "\\frac{1}{",
        "x^",
        "\ud800",
        "\0",
        "٣",
        "9" * 5000,
        "9**9**9**9",
        "10^{10^{10}}",
        "2^{2^{2^{2^{99}}}}",
        "((9!)!)!",
        "9!!!",
        "100000!",
        "9^{999999}",
        "(" * 5000 + "1" + ")" * 5000,
        "\\frac{1}{" * 200 + "1" + "}" * 200,
        "1+" * 5000 + "1",
        "7 " * 900,
    ],
)
def test_what_is_no_mathematics_is_wrong_and_says_why(answer: str) -> None:
    found = verify(answer, "7")
    assert (found.outcome, found.cause) == ("wrong", "unparsable") and found.message
    found.message.encode()


@pytest.mark.parametrize("gold", ["", "{", "\\frac{1}{", "9^9^9^9", "$1$ but $2$", "x" * 3000, "\ud800"])
def test_a_gold_that_cannot_be_read_is_our_fault(gold: str) -> None:
    found = verify("1", gold)
    assert (found.outcome, found.cause) == ("fault", "gold") and "gold" in found.message


def test_no_signal_is_set() -> None:
    before = signal.getsignal(signal.SIGALRM)
    verify("\\frac{1}{2}", "0.5")
    assert signal.getsignal(signal.SIGALRM) == before and signal.alarm(0) == 0


@given(st.integers(-(10**12), 10**12))
def test_an_integer_in_every_notation_is_itself_and_not_its_neighbour(number: int) -> None:
    forms = [
        f"{number}",
        f"{number:,}",
        f"${number}$",
        f"\\boxed{{{number}}}",
        f"{number}.0",
        f"{number:,}".replace(",", " "),
    ]
    assert {verify(form, str(number)).outcome for form in forms} == {"right"}
    assert {verify(form, str(number + 1)).outcome for form in forms} == {"wrong"}


@given(st.integers(-999, 999), st.integers(1, 999), st.integers(1, 9))
def test_a_fraction_is_itself_in_other_terms(numerator: int, denominator: int, factor: int) -> None:
    gold = f"\\frac{{{numerator}}}{{{denominator}}}"
    assert verify(f"{numerator * factor}/{denominator * factor}", gold).outcome == "right"
    assert verify(f"\\dfrac{{{numerator * factor}}}{{{denominator * factor}}}", gold).outcome == "right"
    assert verify(f"{numerator + denominator}/{denominator}", gold).outcome == "wrong"
