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


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("D. Both A and B", "D"), ("C) Both A and B", "C"), ("E) A and B", "E"), ("(D) A, B and C", "D"),
        ("D) A and C only", "D"), ("D: Neither A nor B", "D"), ("E. Either A or B", "E"),
        ("D) All of A, B, and C", "D"),
        ("d) both a and b", "D"), ("The answer is (D) Both A and B.", "D"), ("D (both A and B)", "D"),
        ("**D) Both (A) and (B)**", "D"), ("C. A and B are correct", "C"), ("D. Options A and B", "D"),
        ("B) x", "B"), ("B: Y", "B"), ("B) A", "B"), ("A: B", "A"), ("B) B", "B"),
    ],
)  # fmt: skip
def test_the_text_of_an_option_may_name_letters(text: str, named: str) -> None:
    assert letter(text) == named


@pytest.mark.parametrize(
    "text",
    [
        "A. B. C. D.", "B. C.", "B - C", "b. c.", "A - B - C - D", "A.B.C.D.", "B. C",
        "[A] B [C]", "A. A.",
        "A. Both A and B", "A) B and C", "B. A or C", "C) A or B", "D. A and E", "D) Either A and B", "E) Both A or B",
        "The answer is (B) Both A and C", "D) Both A and B or C",
        "B was picked as the wrong one", "B is chosen as incorrect", "B is right, as are the others",
        "B is correct as all options are", "B is correct because it might be any",
    ],
)  # fmt: skip
def test_letters_alone_are_several(text: str) -> None:
    assert letter(text) is None


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
        "The answer must be D.", "The answer should be D", "The answer is clearly D", "I believe the answer is D.",
        "I am sure that it is D", "Selected: D", "We chose option D", "The only correct answer is D.", "D;", "<D>",
        "The answer is <D>.", "D is the correct answer because it is the capital.", "D is correct, since it's larger",
        "D is right. Lima is the capital.", "The answer is D (Lima)", "D (Lima)", "D (Lima).", "D\nLima", "d\nLima",
        "The answer is D\n\nLima is the capital.", "D because it's the capital", "D\nA river in Peru",
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
        "D is correct because E is wrong, or E", "D is correct as well as the last", "D is correct. But the last fits",
        "D is right, or the last", "D is the answer because it is e", "D (or E)", "D (E)", "D (A)", "D (not sure)",
        "D (or the last)", "D (Lima?)", "D\nE", "D\nA", "d\na", "D\nmaybe the last", "D\nWait, the last", "D, A",
        "D\nLima\nE\nQuito", "The answer should be D or E", "The answer must not be D",
        "I believe it is D. Or the last",
        "The answer should be D, unless it is the last", "I am not sure that it is D", "Should it be D?", "<D> <E>",
        "<b>D</b>", "D>E", "d > 5", "I believe the answer is D. But perhaps the last", "Selected: D, E", "D; E",
    ],
)  # fmt: skip
def test_a_letter_that_is_denied_or_one_of_two(answer: str) -> None:
    assert letter(answer) is None
