"""The letter that an answer names, and texts that name none or several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.choice import letter, verify

FORMS = (
    "{}", " {}\n", "({})", "[{}]", "{}.", "{})", "{}:", "Option {}", "option {}.", "**{}**", "\\boxed{{{}}}", "${}$",
    "\\boxed{{\\text{{{}}}}}", "The answer is {}", "The answer is **{}**.", "{}) Paris", "({}) Paris", "**{}.** Paris",
    "{} - Paris", "{}. Vitamin C", "I think it is {}!", "So the correct answer is option ({})", "Answer: {}",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_letter_in_every_form(form: str) -> None:
    for gold in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        other = "B" if gold == "A" else "A"
        assert verify(form.format(gold), gold).is_right and verify(form.format(gold.lower()), f"{gold}) Paris").is_right
        assert verify(form.format(other), gold).outcome == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A or B",
        "B and C",
        "Because it is so",
        "B) or C)",
        "B) Paris or C) Rome",
        "B. or A",
        "A, B",
        "AB",
        "Vitamin B",
        "not B",
        "A good one is B",
        "A dog",
        "é",
        "5",
        "B or not B",
        "B) Paris\nC) Rome",
        "B. Paris\nC. Rome\nD. Bonn",
        "B. Paris C. Rome",
        "B) Paris\nD. Rome",
        "b) Paris; c) Rome",
        "(b) Paris, (d) Rome",
    ],
)
def test_no_letter_or_several_are_unparsable(text: str) -> None:
    verdict = verify(text, "B")
    assert (verdict.outcome, verdict.cause) == ("wrong", "unparsable")


@pytest.mark.parametrize(
    "text",
    ["B) J. F. Kennedy", "B. The king, i.e. Henry", "B) 3.5 m", "B) Paris: the capital", "(B): Paris", "(B). Rome"],
)
def test_a_label_may_hold_other_letters(text: str) -> None:
    assert verify(text, "B").is_right


def test_the_options_of_the_question_name_no_letter() -> None:
    for marks in ("{}) {}", "{}. {}", "({}) {}", "{}: {}"):
        for between in "\n", " ", ", ":
            for letters in ("ABCD", "abcd"):
                options = zip(letters, ("Paris", "Rome", "12", "none of them"), strict=True)
                assert letter(between.join(marks.format(*option) for option in options)) is None


@pytest.mark.parametrize("gold", ["", "Paris", "A or B", "7"])
def test_a_gold_without_a_letter_is_our_fault(gold: str) -> None:
    verdict = verify("B", gold)
    assert verdict.is_fault and verdict.cause == "gold"


@given(st.text(st.characters()) | st.lists(st.sampled_from(["A", "b", ") ", "(", "or ", "the ", ". "])).map("".join))
def test_no_text_breaks_it(text: str) -> None:
    assert letter(text) in {None, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


@pytest.mark.parametrize(
    "answer",
    [
        "The correct answer is (D) Lima.", "D is correct", "(D) is the right answer.", "Option D is correct.",
        "The answer is D: Lima", "I would go with D.", "D because Lima is the capital", "D, Lima",
        "D, since it is larger",
        "**D** is the correct choice", "The best answer is [D].",
    ],
)  # fmt: skip
def test_a_letter_in_a_sentence(answer: str) -> None:
    assert letter(answer) == "D"


@pytest.mark.parametrize(
    "answer",
    [
        "D is not correct", "D is wrong", "(D) is incorrect", "D isn't right", "D is correct, but E is better",
        "The answer is not (D) Lima", "The answer is (D) Lima or (E) Quito", "The answer is D. No, E.", "D. or E.",
        "D, E", "d, e", "D, not E", "D, and the second too", "D, or maybe the last", "D but perhaps another",
        "Neither D nor E", "D is correct and E is correct", "Is D correct?", "The answer is (D) Lima, not (E)",
    ],
)  # fmt: skip
def test_a_letter_that_is_denied_or_one_of_two(answer: str) -> None:
    assert letter(answer) is None
