"""Numbers in every notation: restated golds are right, near misses are wrong, and nothing raises or takes long."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.number import check_gold, first, parse, verify


def restated(value: int) -> list[str]:
    """An integer in other notations."""
    grouped, sign, size = f"{value:,}", "-" if value < 0 else "", abs(value)
    with_minus = grouped.replace("-", "−")
    return [
        *(grouped, f"{value}.0", f"{value}.", f" {value}\n", with_minus, f"**{grouped}**", f"${value}$", f"`{value}`"),
        *(grouped.replace(",", mark) for mark in (" ", "'", "_", "\u202f", "\u00a0", "’", "{,}", "\\,")),
        *(f"{sign}${size:,}", f"{sign}€{size}", f"{value} €", f"£{value}", f"{grouped} USD", f"EUR {value}"),
        *(f"\\boxed{{{value}}}", f"$\\boxed{{{grouped}}}$", f"\\({value}\\)", f"\\text{{{value}}}", f"\\${value}"),
        *(
            f"{grouped} apples",
            f"{value}\\text{{ cm}}^2",
            f"{value} km/h",
            f"about {value}",
            f"{value}%",
            f"{value}\\%",
        ),
        *(f"x = {value}", f"= {value}", f"The answer is {value}.", f"#### {grouped}", f"Total: {value} cm²"),
        *(f"{2 * value}/2", f"{sign}\\frac{{{3 * size}}}{{3}}", f"{value}e0", f"{value}00e-2", f"{value} × 10^0"),
        *(f"{value}\\cdot10^{{0}}", f"{value}×10⁰", "".join(chr(0xFEE0 + ord(c)) for c in str(value))),
    ]


def near_misses(value: int, rng: random.Random) -> list[str]:
    """Texts that look like the integer, or hold it beside something else."""
    digits = str(abs(value))
    at = rng.randrange(len(digits))
    others = {value + 1, value - 1, value * 10, -value, int(digits[:at] + digits[at] + digits[at:])}
    others |= {int("0" + digits[:at] + digits[at + 1 :]), int(digits[:at] + digits[at:][1::-1] + digits[at + 2 :])}
    others |= {2 * value, value + 10 ** (len(digits) - 1)}
    wrong = [style.format(other) for other in sorted(others - {value}) for style in ("{}", "{:,}", "${:,} in all")]
    wrong += [f"{value}/3", f"{value} or {value + 1}", f"1, 2, {value}", f"{value} {value}", f"{value}.5", f"{value}e1"]
    return [
        *wrong,
        f"not {value}",
        f"more than {value}",
        f"{value}x",
        f"{value}π",
        f"\\sqrt{{{value}}}",
        f"{value} + 1",
    ]


def golds() -> Iterator[tuple[int, random.Random]]:
    rng = random.Random(0)
    for size in (1, 2, 3, 4, 5, 6, 7, 9, 12):
        for _ in range(4):
            value = rng.randrange(10 ** (size - 1), 10**size)
            yield (-value if rng.random() < 0.3 else value), rng


RIGHT = [(answer, str(value)) for value, _ in golds() for answer in restated(value)]
WRONG = [(answer, str(value)) for value, rng in golds() for answer in near_misses(value, rng)]


def test_a_gold_restated_is_right() -> None:
    assert len(set(RIGHT)) >= 1000 and min(len(set(restated(value))) for value, _ in golds()) >= 10
    assert [case for case in RIGHT if not verify(*case, tolerance=0.0).is_right] == []
    assert [case for case in RIGHT if not verify(case[1], case[0], tolerance=0.0).is_right] == []


def test_near_misses_are_wrong() -> None:
    assert len(set(WRONG)) >= 1000
    assert [case for case in WRONG if verify(*case, tolerance=0.0).outcome != "wrong"] == []


FRACTIONS = {
    "3/4": ["0.75", ".75", "\\frac{3}{4}", "¾", "6/8", "75e-2", "75%", "$\\dfrac34$", "3 / 4", "\\boxed{\\frac34}"],
    "-3/2": ["-1.5", "−1 1/2", "-1½", "-\\frac{3}{2}", "\\frac{-3}{2}", "minus 1.5", "- 1.50", "-$1.50", "-150%"],
    "1.2e3": ["1200", "1.2 × 10^3", "1.2\\cdot10^{3}", "1.2*10^3", "12E2", "1.2 x 10³", "1,200", "$1.2 thousand"],
    "0.000125": ["1.25e-4", "1/8000", "1.25 × 10⁻⁴", "0.0125%", "125 \\times 10^{-6}", "1.25·10^-4", "00.000125"],
    "1234567.89": ["1,234,567.89", "1 234 567.89", "$1,234,567.89", "12,34,567.89", "1'234'567.890", "123456789/100"],
}  # fmt: skip


def test_fractions_and_decimals_are_exact() -> None:
    for gold, answers in FRACTIONS.items():
        assert [answer for answer in answers if not verify(answer, gold, tolerance=0.0).is_right] == []
        value = parse(gold)
        assert value is not None
        for miss in (value + 1, -value, value * 10, value / 10, value + Fraction(1, 10**12), 1 / value):
            assert verify(f"{miss.numerator}/{miss.denominator}", gold, tolerance=0.0).outcome == "wrong"


NO_NUMBERS = (
    "", "five", "3 or 4", "12 34", "1234 5678", "1,5", "0,234", "1.234.567", "1,234,5", "1,,234", "12.34.5",
    "3-4", "12:30", "1/2/2020", "1/0", "5 - 3", "5^2", "5²", "x^2", "--5", "+-5", "apples - 5", "3 + 4", "5!",
    "3.33...", "3.33…", "5k", "5 dozen",
    "5 doz", "5 doz.", "half of 5", "twice 5", "B12", "v.2", "f(5)", "√5", "2\\pi", "3i", "> 5",
    "at least 5", "1e1001", "1e-1001", "1e999999999", "10^10^10",
    "12**34", "\\boxed{1}\\boxed{234}",
    "1\n234", "1 234/567", "9 3/2", "1e", "\\frac{1}{2}{3}", "1‰",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_not_one_number_is_unparsable(text: str) -> None:
    assert parse(text) is None
    verdict = verify(text, "5", tolerance=0.0)
    assert (verdict.outcome, verdict.cause) == ("wrong", "unparsable")


HONEST = {
    "8": (
        "8 cards left over | 8 times | 8 times a week | 8 students did not come | 8 (eight) | 8 (the sum) | "
        "k = 8 | p=8 | \\left(8\\right) | $\\left( 8 \\right)$ | 8 one-way tickets | 8 quarters | "
        "8 minutes more | 8 more than Ada | 8 rooms in two houses | Ada and Ben have 8 | "
        "8 pens and pencils | 8 miles / hour | 8 cards! | 8 half-price seats | 3 + 5 = 8 | 3 + 5 = 8 cards | "
        "$2 \\times 4 = 8$ | n = 40 / 5 = 8 | 8 = 3 + 5 | 20 - (3 + 1) * 3 = 8 | 2^3 = 8 | $4 * 2 = $8 | "
        "16 boxes * 0.5 = 8 | 4 times 2 = 8 | In all 5 + 3 = 8 | 2 * 4 = $<<2*4=8>>8 a day | "
        "16 m / 2 s = 8 m/s | 10% of 80 = 8 | \\frac{16}{2} = 8 | 4 2/3 * 3 - 6 = 8"
    ),
    "5.25": "5 \\frac{1}{4} | 5\\,\\tfrac{1}{4} | 5\\ \\frac14 | $5 \\dfrac{1}{4}$ | 5 1/4 cups | 21 / 4 = 5 1/4",
    "-5.25": "-5 \\frac{1}{4} | −5 1/4",
    "42": "forty-two (42) | The answer is forty-two (42). | forty two (42) apples | 42~\\text{km} | forty-two (42 km)",
    "-7": "-\\boxed{7} | it is minus 7 | y = minus 7",
    "1200": "one thousand two hundred (1200) | 1,200 (one thousand two hundred) | 1200 (twelve hundred) | 1.2 thousand",
    "25": "25 (twenty-five) | 25, twenty five | 1/4 = 25% | 25% of them",
}
HEDGED = (
    "8 or nine | 8 (nine) | 8 (9) | eight or 8 | seven to 8 | 8 to nine | 8 and nine | two and 8 | 8 and a half | "
    "8 cards, seven pens | 8 maybe nine | 8 feet six inches | 8 plus tax | 8 minus two | 8 times two | 8 times x | "
    "8 divided by four | 8 over two | 8 point five | 8 is not right | 8 isn't it | 8, no | 8 squared | 8 hundredths | "
    "8 or more | 8 and up | at least 8 | 8 at most | 8 degrees below zero | 8 in thousands | 8 thousand | 8 twice | "
    "3 + 5 | 3 + 5 = 9 | 3 + 4 = 8 | 8 = 9 | 3 + 5 = 8 or 9 | 3 + 5 = 8 = 9 | 3 + 5 = 4 + 4 | 8x = 8 | x + 3 = 3 | "
    "3 * 4 = 12, 3 + 5 = 8 | 8^2 = 8 | 3 5 = 8 | 8? | not 3 + 5 = 8 | 2^(2^(2^9)) = 8 | 8/0 = 8 | 3 quarters of 8"
)


HEDGED += (
    " | can't be 8 | it can’t be 8 | cannot be 8 | anything but 8 | instead of 8 | far from 8 | hardly 8 | almost 8"
    " | up to 8 | the square of 8 | cube of 8 | a tenth of 8 | the opposite of 8 | a multiple of 8 | percent of 8"
    " | one in 8 | two out of 8 | half x = 8 | twice x = 8 | double the number = 8 | two x = 8 | 8n | 8a | 8/x"
    " | nine (8) | not eight (8) | eight (8) or nine (9) | seven or eight (8) | eight (8) times two | x minus 8"
    " | 8 grand | 8 tens | 8 mio | 8 doubled | 8 halved | 8 is too small | 8 is the wrong answer | 8 would be wrong"
)
HONEST["8"] += (
    " | half price = $8 | a square of side 8 | He can buy 8 | 8 a day | 8/day | a remainder of 8 | a sum of $8 | 8 m/s"
    " | 8 tenths-place digits | a group of 8 | He won 8 | 8 in the first half | in all 8"
)


@pytest.mark.parametrize(
    ("answer", "gold"), [(a, gold) for gold, answers in HONEST.items() for a in answers.split(" | ")]
)
def test_honest_wording_is_right(answer: str, gold: str) -> None:
    assert verify(answer, gold, tolerance=0.0).outcome == "right"
    assert verify(gold, answer, tolerance=0.0).outcome == "right" and check_gold(answer, tolerance=0.0).is_right
    assert verify(answer, f"{gold}1", tolerance=0.0).outcome == "wrong"


@pytest.mark.parametrize("answer", HEDGED.split(" | "))
def test_a_hedge_is_wrong(answer: str) -> None:
    assert verify(answer, "8", tolerance=0.0).outcome == "wrong"


def test_minus_in_words_holds_before_a_currency_and_marks() -> None:
    for text in ("minus $8", "negative £ 8", "minus **8**", "negative \\boxed{8}", "It is minus  8.", "minus (8)"):
        assert parse(text) == -8 and verify(text, "8", tolerance=0.0).outcome == "wrong"
    assert parse("minus ½") == Fraction(-1, 2) and parse("minus about 8") is None and parse("minus -8") is None


NAMES = ["nine", "ten", "twenty", "a hundred"]


@given(
    st.sampled_from(["or", "and", "to", "plus", "or maybe", "but perhaps", ",", ";", "/", "minus"]),
    st.sampled_from(NAMES),
)
def test_a_second_number_in_words_is_never_overlooked(between: str, other: str) -> None:
    assert verify(f"8 {between} {other}", "8", tolerance=0.0).outcome == "wrong"
    assert verify(f"{other} {between} 8", "8", tolerance=0.0).outcome == "wrong"


@given(st.integers(-99, 99), st.integers(1, 99), st.sampled_from("+-*/"))
def test_an_equation_names_its_result_only_if_it_is_true(a: int, b: int, sign: str) -> None:
    result = {"+": Fraction(a + b), "-": Fraction(a - b), "*": Fraction(a * b), "/": Fraction(a, b)}[sign]
    assert parse(f"{a} {sign} {b} = {result}") == result
    assert parse(f"{a} {sign} {b} = {result + 1}") is None


def test_a_percent_sign_is_a_unit_and_a_hundredth() -> None:
    def is_right(answer: str, gold: str) -> bool:
        return verify(answer, gold, tolerance=0.0).is_right

    assert parse("50%") == 50
    assert is_right("50%", "50") and is_right("50 percent", "0.5") and is_right("0.5", "50%") and is_right("50", "50%")
    assert is_right("120%", "1.2") and is_right("1.2", "120%") and is_right("5%", "0.05") and is_right("0.05", "5%")
    assert is_right("120%", "120") and is_right("120", "120%")
    assert not is_right("1.2", "120") and not is_right("120%", "1.2%") and not is_right("120", "1.2")
    assert not is_right("0.5%", "50%") and not is_right("5000%", "0.5") and not is_right("0.5", "50")


@pytest.mark.parametrize(
    "answer, gold, tolerance, is_right",
    [
        ("101", "100", 0.01, True),
        ("101.0001", "100", 0.01, False),
        ("1.3", "1", 0.3, True),  # in binary 0.3 is a little less
        ("-99", "-100", 0.01, True),
        ("0.001", "0", 0.5, False),
        ("3.14159", "3.14159265", 1e-6, True),
    ],
)
def test_tolerance_is_relative_to_the_gold(answer: str, gold: str, tolerance: float, is_right: bool) -> None:
    assert verify(answer, gold, tolerance=tolerance).is_right == is_right


def test_a_gold_that_is_no_number_is_our_fault() -> None:
    verdict = verify("5", "five", tolerance=0.0)
    assert verdict.is_fault and verdict.cause == "gold" and "'five'" in verdict.message


@pytest.mark.parametrize(
    "text, value",
    [("it is 85, not 86", 85), ("a -.5", "-1/2"), ("1,234.50.", "1234.5"), ("−3", -3), ("x", None), ("1" * 201, None)],
)
def test_the_first_number_in_running_text(text: str, value: int | str | None) -> None:
    assert first(text) == (None if value is None else Fraction(value))


@given(st.fractions(), st.sampled_from(["{n}/{d}", "\\frac{{{n}}}{{{d}}}", "x = {n}/{d}", "**{n}/{d}** litres"]))
def test_every_fraction_is_read_back(value: Fraction, notation: str) -> None:
    assert parse(notation.format(n=value.numerator, d=value.denominator)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=6))
def test_every_decimal_is_read_back(value: object) -> None:
    assert parse(f"{value}") == parse(f"${value:,}") == Fraction(str(value))


pieces = st.sampled_from([*"0123456789.,+-−/\\{}()[]%$€ '_^*=xeE!½²٣\n", "\\frac{", "10^{", "\\boxed{", "\ud800"])


@given(st.text(st.characters()) | st.lists(pieces, max_size=30).map("".join))
def test_no_text_breaks_it(text: str) -> None:
    assert verify(text, "85", tolerance=0.0).outcome in {"right", "wrong"}
    assert verify("85", text, tolerance=0.1).outcome in {"right", "wrong", "fault"}
    first(text)


@pytest.mark.parametrize(
    "piece", ["'a", "a'", "-", " a", "a-", "(", "1 ", "1,", "\\frac{", "^{", ",23", "*", "½", "1/"]
)
def test_no_repetition_takes_long(piece: str) -> None:
    started = time.perf_counter()
    for text in (piece * (198 // len(piece)) + "1!", "1" + piece * (198 // len(piece)) + "!", piece * 10**6):
        verify(text, "85", tolerance=0.0)
    assert time.perf_counter() - started < 5  # milliseconds when linear, for ever when not
