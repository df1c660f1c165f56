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
    ],
)
def test_no_letter_or_several_are_unparsable(text: str) -> None:
    verdict = verify(text, "B")
    assert (verdict.outcome, verdict.cause) == ("wrong", "unparsable")


@pytest.mark.parametrize("gold", ["", "Paris", "A or B", "7"])
def test_a_gold_without_a_letter_is_our_fault(gold: str) -> None:
    verdict = verify("B", gold)
    assert verdict.is_fault and verdict.cause == "gold"


@given(st.text(st.characters()) | st.lists(st.sampled_from(["A", "b", ") ", "(", "or ", "the ", ". "])).map("".join))
def test_no_text_breaks_it(text: str) -> None:
    assert letter(text) in {None, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
