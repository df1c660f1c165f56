"""A pattern must match the whole answer; a bad one is our fault."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.pattern import verify


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        (r"\d{4}-\d\d-\d\d", "2024-02-29", "right"),
        (r"\d{4}-\d\d-\d\d", " 2024-02-29\n", "right"),
        (r"(?i)yes|no", "YES", "right"),
        (r"[A-Z]{2}\d+", "AB12", "right"),
        (r"\d{4}-\d\d-\d\d", "on 2024-02-29", "wrong"),
        (r"yes|no", "yes, no", "wrong"),
        (r"yes", "yes\nno", "wrong"),
        (r"[A-Z]{2}\d+", "", "wrong"),
        (r"a\d", "a\ud800", "wrong"),
    ],
)
def test_the_whole_answer_must_match(gold: str, answer: str, outcome: str) -> None:
    assert verify(answer, gold).outcome == outcome


@pytest.mark.parametrize("gold", ["(", "*", "a{99999999999}", "(?P<x>a)(?P<x>b)", "(" * 5000 + ")" * 5000])
def test_a_bad_pattern_is_our_fault(gold: str) -> None:
    found = verify("a", gold)
    assert (found.outcome, found.cause) == ("fault", "gold") and len(found.message) < 500


@given(st.text(min_size=1))
def test_a_text_matches_itself_only(text: str) -> None:
    pattern = re.escape(text.strip())
    assert verify(text, pattern).outcome == "right"
    assert verify(f"{text.strip()}x", pattern).outcome == "wrong"
