"""Numbers in every notation: restated golds are right, near misses are wrong, and nothing raises or takes long."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.number import first, parse, verify


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
    "3.33...", "3.33…", "5k", "5 dozen", "half of 5", "twice 5", "B12", "v.2", "f(5)", "√5", "2\\pi", "3i", "> 5",
    "at least 5", "1e1001", "1e-1001", "1e999999999", "10^10^10",
    "12**34", "\\boxed{1}\\boxed{234}",
    "1\n234", "1 234/567", "9 3/2", "1e", "\\frac{1}{2}{3}", "1‰",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_not_one_number_is_unparsable(text: str) -> None:
    assert parse(text) is None
    verdict = verify(text, "5", tolerance=0.0)
    assert (verdict.outcome, verdict.cause) == ("wrong", "unparsable")


def test_a_percent_sign_is_a_unit_and_a_hundredth() -> None:
    def is_right(answer: str, gold: str) -> bool:
        return verify(answer, gold, tolerance=0.0).is_right

    assert parse("50%") == 50
    assert is_right("50%", "50") and is_right("50 percent", "0.5") and is_right("0.5", "50%") and is_right("50", "50%")
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
