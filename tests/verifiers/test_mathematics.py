"""The gold in other notations is right, what is only near it is wrong, and a bad gold is our fault."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.mathematics import check_gold, verify

SAME = {
    "1234": (
        "1,234 | 1234.0 | $1,234 | \\$1,234 | 1 234 | \\boxed{1234} | 1234 apples | $1234$ | 1\\,234 | 1{,}234 | "
        "1234. | \\(1234\\) | \\[1234\\] | $$1234$$ | +1234 | 1.234e3 | 1234 cm | 1234\\text{ dollars} | **1234** | "
        "1000+234=1234 | 2468/2=1234 | "
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
        "\\boxed{1234} \\boxed{5} | 1234 and more | [1234,1235] | 1234i | 1234=1235 | 1234 ± 1 | 0 1 2 3 1234 | "
        "1000+200=1234 | 1235=1234 | 2+2=4=1234"
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
    "52_8": "52_9 | 52_{10} | 53_8",
    "52": "52_8 | 52_{9}",
    "0": "1e-9 | 0.0000001",
}


UNITS = {
    "40": (
        r"40\,\text{km} | 40\ \text{cm}^{2} | 40\textnormal{ m} | 40\mbox{ cm} | $40$ litres | $40$ km/h | 40€ | "
        r"40 € | 40 \$ | "
        r"40 (cups) | 40 cups | 40cups | 40 miles per hour | 40USD | 40 m/s^2 | 40\text{ km}/\text{h} | \text{40 km} | "
        r"40\ \mathrm{m/s^2} | 40\frac{\text{km}}{\text{h}} | 40\ \mathrm{km}\,\mathrm{h}^{-1} | 40 (left over)"
    ),
    r"8\text{ (cups)}": "8 | 8 cups",
    "8 (cups)": "8 | 8 cups | 8 (spoons) | 8 (eight) | 8 points",
    r"2\pi": r"2\pi\text{ cm} | 2\pi\ \text{cm}^2 | 2\pi cm | 2π metres",
    r"3\sqrt{2}": r"3\sqrt{2} cm | 3\sqrt2 feet | 3√2 \textbf{ cm}",
    "10": r"10°C | 10^\circ C | 10^{\circ} F | 10 km per hour | 10 m/s",
    "0.75": r"\frac{3}{4} cup | \frac34\text{ cups} | 3/4 cup",
    "28%": r"$28$ % | 28\% | x = 28\%",
    "1.2": r"120% | $120\%$ | 120 percent | x = 120% | 6/5=120\%",
    "120%": r"1.2 | 120 | \frac{6}{5} | x=120%",
    "0.05": r"5% | 5\% | x = 5%",
    "x<0.05": r"x<5\%",
}
FORMS = {
    "52_8": r"52 | 52_{8} | 52_{(8)} | $52_8$",
    r"(-\infty,3)\cup(8,\infty)": r"(-∞,3) U (8,∞) | (-inf,3)U(8,inf) | (-oo,3) ∪ (8,oo) | (-\infty,3) or (8,\infty) | "
    r"x<3 \text{ or } x>8 | x < 3 or x > 8 | x>8 \quad\text{or}\quad x<3",
    "(3,8)": r"x>3 \text{ and } x<8 | 3<x<8",
    "3, 5": r"x=3 \text{ or } x=5 | 3 \text{ or } 5 | 5, 3 | \boxed{3}\boxed{5} | \boxed{5} and \boxed{3}",
    "3, 5, 7": r"3, 5, and 7 | 3, 5, \text{ and } 7 | \boxed{3}, \boxed{5}, \boxed{7}",
    "x = 11": r"x = 5 + 6 = 11 | x = 5+5+1 = 7 = 11",
    "3+4i": "3 + 4 i | 4i + 3",
    r"\emptyset": r"\varnothing | ∅ | \{\}",
    "2/3": r"0.\overline{6} | 0.\bar{6} | 0.\overline6 | .\overline{66}",
    "1/6": r"0.1\overline{6}",
    "2": r"e^{i\pi}+3 | 3+e^{\pi i}",
    r"\frac{\pi}{6}": r"\frac \pi6 | \frac\pi{6} | \frac{\pi}6 | \pi/6",
    r"\tfrac{1}{3}, \tfrac{2\pm\sqrt{7}}{5}": r"\frac{2-\sqrt7}{5}, \frac13, \frac{2+\sqrt{7}}{5}",
    r"3 \pm \sqrt{2}, 1": r"1, 3-\sqrt2, 3+\sqrt2",
    "zyxw": "z y x w",
    r"\ln 2": "ln 2 | ln(2) | ln{2}",
    r"\sin x": "sin(x) | sin x | \\sin(x)",
    "e^x": "exp(x) | \\exp(x)",
    r"\frac{\pi}{4}": r"arctan(1) | \arctan(1)",
    "3": "log_2(8) | abs(-3) | |-3| | x = 3 cm | v=3 m/s | x = 3 metres | n = 3 apples | Area = 3 | "
    "area = 3 cm^2 | Answer: 3 | x = $3$ | final answer: 3 | y_1 = 3 kg",
    "10": "C(5,2) | 5C2 | $\\$10$",
    r"\sqrt3": "sqrt{3} | sqrt 3 | √3 | sqrt(3)",
    r"3\sqrt2": "3√2 cm",
    r"\sqrt[3]{2}": "∛2 | ∛(2) | ∛(1+1)",
    "12.5": r"12.5% | 12.5\% | 12.5 percent",
    r"33.3\%": "33.3 | 33.3%",
    "1200": "1.2 x 10^3 | 1.2x10^{3} | 1.2 × 10³ | 30 x 40 | 12·10²",
    "0.5": r"\sin(30^\circ) | \cos 60^\circ | sin(30°) | 2⁻¹ | cos(60°)",
    "0.75": "¾",
    r"\frac73": "2⅓ | 7/3",
    "x^4": "x⁴",
    "x_1": "x₁",
    "100000": r"10⁵ | $\$100,000$",
    "3.14": r"≈ 3.14 | \approx 3.14",
    "TBD": "TBD | $TBD$",
    "x": "x cm",
    "45": r"\theta = 45 | \theta=45°",
    r"\theta=45": "45",
    "60": r"\angle ABC = 60^\circ",
    "6": r"\triangle ABC = 6",
    "x=3, y=2": r"x=3,\quad y = 2",
    r"3\beta": r"\alpha=3\beta",
    r"\cos\alpha=1/2": r"\cos \alpha = 0.5",
    "v=u+at": "v=u+ta",
    "e^{at}": "e^{ta}",
    "an(1+n)": "a n + a n^2",
    r"\frac{10}{\tan 45^\circ}": "10",
    r"\frac{\sin 30^\circ}{2}": "0.25",
    r"\sqrt{\sin 30^\circ}": r"\frac{1}{\sqrt2}",
    "1": "sin(30°+60°) | \\sin(30^\\circ+60^{\\circ}) | (sin 90°)^2",
    "(1,2),(3,4)": r"(1,2) and (3,4) | (3,4), (1,2) | (1,2)\text{ and }(3,4)",
    "AB": "BA",
    "V=IR": "V=RI",
    "10:30 AM": "10:30 am | 10:30am",
    r"\frac13": r"\frac{1}{3} \approx 0.333",
}
NO_UNITS = {
    "8": (
        r"8 cups and 3 spoons | 8 (nine or ten) | 8\text{ million} | 8 million | 8 (x) | 8x cups | 8 cups of 3 | "
        r"8\text{ or }9 | 8\text{ dozen} | the answer is 8 | 8 or 9 | 9 cups | 80\text{ cm} | "
        r"8 nine | 8 (nine) | 8 twenty | 8 point five | 8 hundreds | 8\text{ thousands} | 8 tens | 8 doubled | "
        r"8 halved | 8 (doubled) | 8 choose two | 8 factorial | 8 base nine | 8 below zero | 8 negative | 8 maybe | "
        r"8 (wrong) | 8 wrong | 8 percent of ten | 8 grand | 8 cm and nine mm"
    ),
    "0.6": r"0.\overline{6}",
    "(3,8)": r"x<3 \text{ or } x>8 | x<3 \text{ and } x<8",
    "3": r"x=3 \text{ or } x=5 | \pm 3 | 3, \pm 3 | \boxed{3}\boxed{5} | \boxed{3} \boxed{3} \boxed{4}",
    r"2\pi": r"2\pi r | 2\pi h | 2\pi k cm | 3\pi cm",
    "10": "10^\\circ x | 10 i | 10 K per",
    "120": "1.2 | 1.2%",
    "0.5": r"5% | x = 5\% | 1/4 = 50\% | 0.5%",
    "x<0.05": r"x<0.5\% | x>5\%",
    "5": "5 dozens | 5 lakh | 5 crore | 5 mio | 5 root | x = 6 cm | Area = 6 | 2+total = 7 | "
    "Wrong: 5 | never: 5 | half: 5 | twice: 5 | less than: 5 | 5.04≈5 | 3·total = 15 | 5 x 2 | sqrt 5 | C(5,2)",
    "no": "on",
    "C=15h": "15",
    "F=3m": "3",
    "(1,2) and (3,4)": r"\emptyset",
    "(1,3) and (2,4)": "(2,3)",
    r"\ln 2": "2nl | ln 3 | log_2(2)",
    r"\sin 1": r"\sin 1^\circ",
    "12.5": "1.25% | 0.125%",
    "(0,1)": "(0,1) or (2,3)",
}
ECHOES = [  # answer, gold, question
    ("9^2-7^2", "32", "Compute $9^2-7^2$."),
    ("$9^{2} - 7^{2}$", "32", "Compute $9^2-7^2$."),
    (r"\left(9^2-7^2\right)", "32", "Compute $9^2-7^2$."),
    ("x = 9^2-7^2", "32", "Compute $9^2-7^2$."),
    ("9^2-7^2=9^2-7^2", "32", "Compute $9^2-7^2$."),
    ("9² − 7²", "32", "What is 9^2 - 7^2?"),
    ("3z+1<7", r"(-\infty,2)", "Solve $3z+1<7$."),
    ("2z<6", r"(-\infty,3)", "Solve $2z < 6$."),
    (r"\sqrt{98}", r"7\sqrt{2}", r"Simplify $\sqrt{98}$."),
    ("x^2+5x+6", "(x+2)(x+3)", "Factor $x^2 + 5x + 6$."),
    ("(x+2)(x+3)", "x^2+5x+6", "Expand $(x+2)(x+3)$."),
    ("0.5", r"\frac{1}{2}", "Write 0.5 as a fraction."),
    (r"\frac{3}{8}", "0.375", r"Write $\frac38$ as a decimal."),
    ("6 * 7", "42", r"What is $6\cdot7$?"),
    ("sqrt(98)", r"7\sqrt{2}", r"Simplify $\sqrt{98}$."),
    ("√98", r"7\sqrt{2}", r"Simplify $\sqrt{98}$."),
    ("10**3", "1000", "Compute $10^3$."),
    (r"\log_{2}{32}", "5", r"Evaluate $\log_2 32$."),
    (r"\log_2(32)", "5", r"Evaluate $\log_2 32$."),
    (r"\dbinom{6}{2}", "15", r"Evaluate $\binom{6}{2}$."),
    ("6×7", "42", r"What is $6 \times 7$?"),
    ("7>3z+1", r"(-\infty,2)", "Solve $3z+1<7$."),
    (r"7 \ge 3z+1", r"(-\infty,2]", r"Solve $3z+1\le 7$."),
    ("(2+3)*4", "20", "Compute (2+3)*4"),
    ("-3+5", "2", "What is -3+5?"),
    ("√16", "4", "Simplify √16"),
    (r"\sqrt{16}", "4", r"Simplify \sqrt{16}"),
    (r"\frac{6}{8}", r"\frac34", r"Simplify \frac{6}{8}"),
    ("|2-5|", "3", "What is |2-5|?"),
    ("|x-3|<5", "(-2,8)", "Solve |x-3|<5"),
    ("(x+2)(x+3)", "x^2+5x+6", "Expand (x+2)(x+3)"),
    (r"2x \ge 6", r"[3,\infty)", r"Solve $2x \geq 6$"),
    (r"6 \le 2x", r"[3,\infty)", r"Solve $2x \geq 6$"),
    (r"2x\geq 6", r"[3,\infty)", "Solve 2x ≥ 6"),
    ("2x ≥ 6", r"[3,\infty)", "Solve 2x >= 6"),
    (r"2x\lt 6", r"(-\infty,3)", "Solve 2x < 6"),
    ("2(3+4)", "14", "Compute 2*(3+4)"),
    (r"2 \cdot (3+4)", "14", "Compute 2(3+4)"),
    ("2*x<6", r"(-\infty,3)", "Solve 2x<6"),
    (r"12 \div 4", "3", "Compute 12/4"),
    ("12/4", "3", r"Compute $12 \div 4$"),
    ("25*4", "100", "What is 25 x 4?"),
    ("25 x 4", "100", "What is 25*4?"),
    (r"\frac{2+4}{3}", "2", "Compute (2+4)/3"),
    ("(2+4)/3", "2", r"Compute $\frac{2+4}{3}$"),
    (r"2^{3+4}", "128", "Compute 2^(3+4)"),
    ("8^{1/2}", r"2\sqrt2", "Simplify 8^(1/2)"),
    ("√(5^2+12^2)", "13", r"Compute $\sqrt{5^2+12^2}$"),
    (r"\frac{\sqrt4}{2}", "1", r"Compute $\frac{\sqrt{4}}{2}$"),
    ("{25+37}", "62", "What is 25+37?"),
    (r"\sum_{k=1}^{3} k", "6", r"Compute $\sum_{k=1}^3 k$"),
    (r"x=\frac{12}{4}", "3", r"Simplify $\frac{12}{4}$."),
    (r"x=\sqrt{98}", r"7\sqrt{2}", r"Simplify $\sqrt{98}$."),
    ("Answer: 2+3", "5", "Compute 2+3."),
    (r"\approx 2+3\cdot 4", "14", r"Compute $2+3\cdot 4$."),
    (r"\dbinom{5}{2}", "10", r"Find $\binom 52$."),
    (r"25\cdot 4 \text{ apples}", "100", "How many are 25 * 4 apples?"),
]
NO_ECHOES = [
    ("32", "32", "Compute $9^2-7^2$, which is not 32."),
    ("9^2-7^2=32", "32", "Compute $9^2-7^2$."),
    ("z<2", r"(-\infty,2)", "Solve $3z+1<7$. Is $z<2$?"),
    ("2>z", r"(-\infty,2)", "Solve $3z+1<7$. Is $z<2$?"),
    ("0<x<1", "(0,1)", "For $0<x<1$, find the range."),
    ("2^5", "2^5", "Which is larger, $5^2$ or $2^5$?"),
    ("50", r"50\%", "50 of 100 balls are red. How many percent?"),
    ("1/2", r"\frac12", "One half is 1/2. What is the half of one?"),
    ("y=2x+1", "2x+1", "Mirror the line $y=2x+1$ twice."),
    ("1, 2", r"\{1,2\}", r"Let $A=\{1,2\}$. Find $A\cap\{1,2,3\}$."),
    ("10/4", "2.5", "There are 10 apples for 4 children."),
    ("x+1", "1+x", "Simplify $2x+1-x$."),
    (r"\sqrt{3}", r"\sqrt3", r"Which is irrational, $\sqrt{3}$ or $\sqrt{4}$?"),
    ("5 apples", "5", "Tom has 5 apples. How many apples has he?"),
    (r"5\text{ apples}", "5", "Tom has 5 apples."),
    ("12 m", "12", "It is 12 m long."),
    ("50 mph", "50", "at 50 mph"),
    ("60 degrees", "60", "60 degrees"),
    ("5 dollars", "5", "5 dollars each"),
    ("100 cm^2", "100", "100 cm^2"),
    (r"3\sqrt{2} cm", r"3\sqrt{2}", r"a side of 3\sqrt{2} cm"),
    ("30 percent", r"30\%", "30 percent of"),
    ("x+3", "3+x", "Simplify 2x+3-x."),
    ("60°", "60", "Angle A is 60°. Find angle B."),
    (r"60^\circ", "60", r"Angle A is $60^\circ$. Find angle B."),
    ("60", r"60^\circ", r"Angle A is 60. Find angle B."),
    ("2, 1", "1,2", "Which of 3, 2, 1 are below 3?"),
    ("2+3", "5", "Compute 12+3."),
]


def cases(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(gold, answer) for gold, answers in table.items() for answer in [gold, *answers.split(" | ")]]


@pytest.mark.parametrize(("gold", "answer"), cases(SAME | UNITS | FORMS))
def test_other_notations_are_right(gold: str, answer: str) -> None:
    assert verify(answer, gold).outcome == "right"


@pytest.mark.parametrize(("gold", "answer"), [case for case in cases(NEAR | NO_UNITS) if case[0] != case[1]])
def test_near_misses_are_wrong(gold: str, answer: str) -> None:
    assert verify(answer, gold).outcome == "wrong"


@pytest.mark.parametrize(("answer", "gold", "question"), ECHOES)
def test_a_formula_of_the_question_is_no_answer(answer: str, gold: str, question: str) -> None:
    assert verify(answer, gold).outcome == "right"
    found = verify(answer, gold, question)
    assert (found.outcome, found.cause) == ("wrong", "echo")


@pytest.mark.parametrize(("answer", "gold", "question"), NO_ECHOES)
def test_what_is_worked_out_may_stand_in_the_question(answer: str, gold: str, question: str) -> None:
    assert verify(answer, gold, question).outcome == "right"


@pytest.mark.parametrize("unit", ["(m^2)", "(cm^{2})", "(km/h)", "(L)", "[m]", "(s)"])
def test_a_unit_in_brackets_is_no_factor(unit: str) -> None:
    assert verify("16", f"16 {unit}").outcome == verify(f"16 {unit}", "16").outcome == "right"


@pytest.mark.parametrize(
    "gold", [r"0 \le k \le 5", "2 n 3", "2 pi 3", "3 \\text{ or } 5", r"2 \times m \times 3", "2 sqrt 3"]
)
def test_what_may_stand_between_numbers(gold: str) -> None:
    assert check_gold(gold).is_right


@pytest.mark.parametrize("gold", ["5 to 7", "2 ft 3 in", "2 h 30 min", "3 m 20 cm", "5 R 2", "7 r2", "3 on 4"])
def test_words_between_numbers_are_no_factors(gold: str) -> None:
    assert check_gold(gold).is_fault
    assert verify(gold, "70").cause == "unparsable"


@pytest.mark.parametrize("gold", ["y = - x ^ { 2 } + 12 x", "8 cups and 3 spoons", "\\left( 3, 4 \\right)", "x \\in"])
def test_the_text_of_the_gold_is_right_before_anything_is_parsed(gold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} was parsed")

    monkeypatch.setattr("rlvr.verifiers.mathematics.comparison.read", refuse)
    for answer in (gold, f" ${gold}$ ", f"\\boxed{{{gold}}}", gold.replace(" ", "  ")):
        assert verify(answer, gold).outcome == "right"


@pytest.mark.parametrize("gold", ["8 (cups)", "0.\\overline{6}", "no solution", "\\frac \\pi6", "x<3 or x>8"])
def test_good_golds(gold: str) -> None:
    assert check_gold(gold).outcome == "right"


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


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "{",
        "\\frac{1}{",
        "9^9^9^9",
        "$1$ but $2$",
        "8 cups and 3 spoons",
        "5 or so",
        "x" * 3000,
        "\ud800",
    ],
)
def test_a_gold_that_cannot_be_read_is_our_fault(gold: str) -> None:
    for found in (verify("1", gold), check_gold(gold)):
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
