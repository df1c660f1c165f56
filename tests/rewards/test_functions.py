"""The points of every reward function, as documented, and that no text breaks one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.chat import TAGS, Tags, render_target
from rlvr.config import Config
from rlvr.rewards import FUNCTIONS, check_options
from rlvr.tasks.arithmetic import problem
from rlvr.types import Completion, Problem

DEFAULT = TAGS["working_out"]
R, R_END, A, A_END = DEFAULT.marks()
# distinct from the defaults, so that a constant in the code shows
BANDS = {
    "exact": 5.1,
    "stripped": 3.6,
    "within_10_percent": 2.2,
    "within_20_percent": 1.7,
    "wrong": -2.6,
    "not_a_number": -4.4,
    "missing": -2.1,
}
NUMBERS = {"right": 3.4, "wrong": -1.6, "missing": 0.3}


def problem_with(gold: str) -> Problem:
    return Problem("p", "How much?", gold, "", 1)


def completion(answer: str) -> str:
    return f"{R}because{R_END}{A}{answer}{A_END}"


def points_of(name: str, text: str, about: Problem, tags: Tags, *, num_tokens: int = 1, **options: float) -> float:
    sampled = Completion(torch.zeros(num_tokens, dtype=torch.int64), torch.zeros(num_tokens), text, is_truncated=False)
    points: float = FUNCTIONS[name](sampled, about, tags, **options)
    return points


def answer(text: str, gold: str) -> float:
    return points_of("answer", text, problem_with(gold), DEFAULT, **BANDS)


def number(text: str, gold: str = "85") -> float:
    return points_of("number", text, problem_with(gold), DEFAULT, **NUMBERS)


@pytest.mark.parametrize("tags", TAGS)
def test_a_perfect_completion_has_thirteen_and_a_half(tags: str, make_config: Callable[..., Config]) -> None:
    """3 for the format, 4 · 0.5 for the tags, 5 for the answer, 3.5 for its number."""
    perfect = problem(47, 38, 2)
    text = render_target(perfect, TAGS[tags])
    points = {
        name: reward.weight * points_of(name, text, perfect, TAGS[tags], **reward.options)
        for name, reward in make_config().rewards.items()
    }
    assert points == {"format_exact": 3.0, "format_approximate": 2.0, "answer": 5.0, "number": 3.5}
    assert sum(points.values()) == 13.5


@pytest.mark.parametrize("text, points", [(completion("3"), 2.5), (completion("rubbish"), 2.5), ("85", 0.0), ("", 0.0)])
def test_format_exact(text: str, points: float) -> None:
    assert points_of("format_exact", text, problem_with("85"), DEFAULT, points=2.5) == points


@pytest.mark.parametrize(
    "text, once",
    [
        (completion("3"), 4),
        ("", 0),
        (R, 1),
        (f"{A_END}{A}{R_END}{R}", 4),  # the order is another function's matter
        (completion("3") + A, 3),
        (completion("3") * 2, 0),
        (f"{R}{R}{R_END}", 1),
    ],
)
def test_format_approximate_counts_tags_that_occur_once(text: str, once: int) -> None:
    found = points_of("format_approximate", text, problem_with("85"), DEFAULT, present=0.6, absent=-1.1)
    assert found == pytest.approx(once * 0.6 - (4 - once) * 1.1)


class TestAnswer:
    @pytest.mark.parametrize(
        "guess, gold, band",
        [
            ("85", "85", "exact"),
            (" 85", "85", "stripped"),
            ("85\n", "85", "stripped"),
            ("85.0", "85", "stripped"),
            ("085", "85", "stripped"),
            ("1,000", "1000", "stripped"),
            # 100: 10 % is 90 to 110, 20 % is 80 to 120, edges included
            ("90", "100", "within_10_percent"),
            ("110", "100", "within_10_percent"),
            ("99.999", "100", "within_10_percent"),
            ("89.99", "100", "within_20_percent"),
            ("110.01", "100", "within_20_percent"),
            ("80", "100", "within_20_percent"),
            ("120", "100", "within_20_percent"),
            ("79.99", "100", "wrong"),
            ("120.01", "100", "wrong"),
            ("-100", "100", "wrong"),
            # a negative gold has the same bands around it
            ("-100", "-100", "exact"),
            ("-90", "-100", "within_10_percent"),
            ("-110", "-100", "within_10_percent"),
            ("-111", "-100", "within_20_percent"),
            ("-80", "-100", "within_20_percent"),
            ("-79", "-100", "wrong"),
            ("100", "-100", "wrong"),
            # nothing but zero is near zero
            ("0", "0", "exact"),
            ("0.0", "0", "stripped"),
            ("-0", "0", "stripped"),
            ("0.0001", "0", "wrong"),
            ("-1", "0", "wrong"),
            ("0", "100", "wrong"),
            # no number
            ("eighty-five", "85", "not_a_number"),
            ("85 apples", "85", "not_a_number"),
            ("85 86", "85", "not_a_number"),
            (" ", "85", "not_a_number"),
            ("1e2", "100", "not_a_number"),
            ("9" * 400, "85", "wrong"),
            # a gold that is text
            ("Paris", "Paris", "exact"),
            (" Paris ", "Paris", "stripped"),
            ("London", "Paris", "not_a_number"),
            ("5", "Paris", "not_a_number"),
        ],
    )
    def test_bands(self, guess: str, gold: str, band: str) -> None:
        assert answer(completion(guess), gold) == BANDS[band]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "85",
            f"{A}85{A_END}",
            completion("85") + "!",
            completion("85") + completion("85"),
            f"{R}{A}85{A_END}{R_END}{A}85{A_END}",
            f"{R}because{R_END}{A}85{A_END}{A}86{A_END}",
            f"{R}because{R_END}{A}85",
        ],
    )
    def test_what_is_not_well_formed_has_no_answer(self, text: str) -> None:
        assert answer(text, "85") == BANDS["missing"]


class TestNumber:
    @pytest.mark.parametrize(
        "text, points",
        [
            (completion("85"), "right"),
            (completion("85.0"), "right"),
            (completion("it is 85, not 86"), "right"),
            (completion("86"), "wrong"),
            (completion("86 or 85"), "wrong"),
            (completion("-85"), "wrong"),
            (f"{A}85", "right"),
            (f"{A}85{A_END}{A}86{A_END}", "right"),
            (f"{A}86{A_END}{A}85{A_END}", "wrong"),
            (f"{R}85{R_END}{A}{A_END}", "missing"),
            (f"85{A_END}", "missing"),
            (completion("none"), "missing"),
            (f"{A}{A_END}85", "missing"),
            ("85", "missing"),
            ("", "missing"),
        ],
    )
    def test_the_first_number_after_the_answer_tag(self, text: str, points: str) -> None:
        assert number(text) == NUMBERS[points]

    def test_a_negative_gold(self) -> None:
        assert number(completion("-85"), "-85") == NUMBERS["right"]


class TestRandom:
    """The control must not know right from wrong."""

    def test_it_depends_on_problem_and_text_alone(self) -> None:
        def points(text: str, p: Problem) -> float:
            return points_of("random", text, p, DEFAULT, low=-1.0, high=3.0)

        a, b = problem(47, 38, 2), problem(12, 13, 2)
        assert points("x", a) == points("x", a)
        assert len({points("x", a), points("y", a), points("x", b)}) == 3
        other_gold = Problem(a.id, a.question, "0", a.working, a.level)
        assert points("x", other_gold) == points("x", a)

    def test_it_is_spread_evenly(self) -> None:
        """4,000 draws: each tenth of the range within five standard deviations (95) of 400."""
        draws = [points_of("random", str(i), problem_with("1"), DEFAULT, low=2.0, high=4.0) for i in range(4000)]
        assert min(draws) >= 2.0 and max(draws) < 4.0
        tenths = [sum(2 + k / 5 <= draw < 2 + (k + 1) / 5 for draw in draws) for k in range(10)]
        assert all(abs(count - 400) < 95 for count in tenths)


class TestSoftOverlong:
    """DAPO, eq. 13, with a length that may reach 20 and a cache of 8."""

    @staticmethod
    def at(num_tokens: int, *, cache_tokens: float = 8) -> float:
        options = {"max_tokens": 20, "cache_tokens": cache_tokens}
        return points_of("soft_overlong", "text", problem_with("1"), DEFAULT, num_tokens=num_tokens, **options)

    @pytest.mark.parametrize("n, points", [(1, 0), (12, 0), (13, -1 / 8), (16, -0.5), (19, -7 / 8), (20, -1), (30, -1)])
    def test_points_by_length(self, n: int, points: float) -> None:
        assert self.at(n) == points

    def test_without_a_cache_it_is_a_step(self) -> None:
        assert [self.at(n, cache_tokens=0) for n in (19, 20, 21)] == [0, 0, -1]

    def test_a_cache_of_everything_begins_at_the_first_token(self) -> None:
        assert [self.at(n, cache_tokens=20) for n in (1, 10, 20)] == [-1 / 20, -0.5, -1]


OPTIONS: dict[str, dict[str, float]] = {
    "format_exact": {"points": 3.0},
    "format_approximate": {"present": 0.5, "absent": -1.0},
    "answer": BANDS,
    "number": NUMBERS,
    "random": {"low": 0.0, "high": 1.0},
    "soft_overlong": {"max_tokens": 40, "cache_tokens": 8},
}


def test_options_are_exactly_the_documented_ones() -> None:
    assert FUNCTIONS.keys() == OPTIONS.keys()
    for name, options in OPTIONS.items():
        check_options(name, options, max_completion_tokens=48)
        for option in options:
            with pytest.raises(ValueError, match=rf"rewards\.{name}\.options must be exactly .*missing: {option}"):
                others = {key: value for key, value in options.items() if key != option}
                check_options(name, others, max_completion_tokens=48)
        with pytest.raises(ValueError, match="unknown: bonus"):
            check_options(name, options | {"bonus": 1.0}, max_completion_tokens=48)


fragments = st.sampled_from([R, R_END, A, A_END, "2", "-1,0.5", " ", "\n", "<", "½", "٣", "9" * 400, "."])
any_text = st.one_of(st.text(st.characters()), st.lists(fragments | st.text(max_size=3), max_size=12).map("".join))


@given(any_text, any_text | st.sampled_from(["0", "-3", "85"]), st.sampled_from(list(TAGS.values())))
def test_no_text_breaks_a_function(text: str, gold: str, tags: Tags) -> None:
    for name, options in OPTIONS.items():
        points: Any = points_of(name, text, problem_with(gold), tags, **options)
        assert isinstance(points, float)
        assert -5 < points < 6


@given(any_text)
def test_only_well_formed_texts_have_more_than_the_number(text: str) -> None:
    """A text that is not well-formed never earns the format or the answer, whatever it holds."""
    if points_of("format_exact", text, problem_with("2"), DEFAULT, points=1.0) == 0.0:
        assert answer(text, "2") == BANDS["missing"]
