"""Text that is the same, and text that only looks it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.text import exact, normalise, normalised


@pytest.mark.parametrize("answer, is_right", [(" Paris\n", True), ("paris", False), ("Paris.", False), ("", False)])
def test_exact_leaves_out_white_space_around_only(answer: str, is_right: bool) -> None:
    assert exact(answer, "Paris").is_right == is_right


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("the eiffel\n tower.", "The Eiffel Tower"),
        ("“Straße”!", "STRASSE"),
        ("ﬁnal", "final"),
        ("cafe\u0301", "Café"),
        ("Ｐａｒｉｓ", "paris"),
        ("'yes.'", "Yes"),
        ("n’djamena", "N'Djamena"),
        ("Côte d'Ivoire", "Côte d’Ivoire"),
        ("Port\u2011au\u2011Prince", "Port-au-Prince"),
        ("\u200eOslo\u200b", "Oslo"),
        ("H₂O", "H2O"),
        ("Ca²⁺", "Ca2+"),
    ],
)
def test_what_does_not_matter_is_taken_out(answer: str, gold: str) -> None:
    assert normalised(answer, gold).is_right and not exact(answer, gold).is_right


@pytest.mark.parametrize(
    "answer, gold",
    [("A", "the A"), ("Eiffel Tower", "The Eiffel Tower"), ("re-do", "redo"), ("1.5", "15"), ("-5", "5"), ("5²", "52")],
)
def test_what_matters_stays(answer: str, gold: str) -> None:
    assert normalised(answer, gold).outcome == "wrong"


@given(st.text(st.characters()))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert normalised(text, text).is_right


def test_marks_without_end_take_no_time() -> None:
    """Normal forms take quadratic time where marks of two classes alternate: minutes for these."""
    started = time.perf_counter()
    verdict = normalised("a" + "\u0301\u0323" * 10**6, "gold")
    assert (verdict.outcome, verdict.cause) == ("wrong", "unparsable")
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("answer", ["**Oslo**", "(Oslo)", "*Oslo*.", "__Oslo__", "[oslo]", "**“Oslo”**.", "`Oslo`"])
def test_marks_around_the_whole_are_left_out(answer: str) -> None:
    assert normalised(answer, "Oslo").is_right and normalised("Oslo", answer).is_right


@pytest.mark.parametrize(
    "answer",
    ["「東京」", "『東京』", "【東京】", "（東京）", "《東京》。", "〈東京〉", "〔東京〕", "“東京”", "**「東京」**"],
)
def test_marks_of_east_asia_are_left_out(answer: str) -> None:
    assert normalised(answer, "東京").is_right and normalised("東京", answer).is_right
    assert not normalised(answer, "京都").is_right


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("「東京」と「京都」", "東京」と「京都"),
        ("「東京』", "東京"),
        ("", "?"),
        ("!", "?"),
        ("()", "?"),
        ("C", "C#"),
        ("(a) and (b)", "a) and (b"),
        ("f x", "f(x)"),
        ("*x", "x"),
        ("", ""),
    ],
)
def test_marks_that_say_something_stay(answer: str, gold: str) -> None:
    assert normalised(answer, gold).is_right == (answer == gold)
    assert normalised(gold, gold).is_right
