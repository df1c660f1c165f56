"""The points of the default's reward functions in every case, and that no text breaks any function."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.chat import TAGS, Tags, render_target
from rlvr.config import Config
from rlvr.config.scoring import check_options
from rlvr.rewards.functions import FUNCTIONS, check_values
from rlvr.rewards.functions.steps import stated_steps
from rlvr.tasks.arithmetic import problem
from rlvr.types import UserError
from rlvr.verifiers.verdict import NOT_APPLICABLE, RIGHT, WRONG, fault
from support.reward_examples import EXAMPLES
from support.samples import sample_of, well_formed

DEFAULT = TAGS["working_out"]
R, R_END, A, A_END = DEFAULT.marks()
# distinct from the defaults, so that a constant in the code shows
BANDS: dict[str, Any] = {
    "exact": 5.1,
    "stripped": 3.6,
    "within_10_percent": 2.2,
    "within_20_percent": 1.7,
    "wrong": -2.6,
    "not_a_number": -4.4,
    "missing": -2.1,
}
NUMBERS: dict[str, Any] = {"right": 3.4, "wrong": -1.6, "missing": 0.3}


def completion(answer: str, reasoning: str = "because") -> str:
    return well_formed(answer, reasoning, tags=DEFAULT)


def points_of(name: str, text: str, *, gold: str = "85", tags: Tags = DEFAULT, **options: Any) -> float:
    points = FUNCTIONS[name](sample_of(text, gold=gold, tags=tags), **options)
    assert points is not None
    return points


def answer(text: str, gold: str) -> float:
    return points_of("answer", text, gold=gold, **BANDS)


def number(text: str, gold: str = "85") -> float:
    return points_of("number", text, gold=gold, **NUMBERS)


@pytest.mark.parametrize("tags", TAGS)
def test_a_perfect_completion_has_thirteen_and_a_half(tags: str, make_config: Callable[..., Config]) -> None:
    """3 for the format, 4 · 0.5 for the tags, 5 for the answer, 3.5 for its number."""
    perfect = problem(47, 38, 2)
    text = render_target(perfect, TAGS[tags])
    points = {
        name: reward.weight * points_of(name, text, gold=perfect.answer, tags=TAGS[tags], **reward.options)
        for name, reward in make_config().rewards.items()
    }
    assert points == {"format_exact": 3.0, "format_approximate": 2.0, "answer": 5.0, "number": 3.5}
    assert sum(points.values()) == 13.5


@pytest.mark.parametrize("text, points", [(completion("3"), 2.5), (completion("rubbish"), 2.5), ("85", 0.0), ("", 0.0)])
def test_format_exact(text: str, points: float) -> None:
    assert points_of("format_exact", text, points=2.5) == points


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
    found = points_of("format_approximate", text, present=0.6, absent=-1.1)
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
            ("85 apples", "85", "stripped"),
            ("85 86", "85", "not_a_number"),
            (" ", "85", "not_a_number"),
            ("1e2", "100", "stripped"),
            ("9" * 150, "85", "wrong"),
            ("9" * 400, "85", "not_a_number"),
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
            (f"{A}85{A_END}{A}86{A_END}", "wrong"),  # the last answer counts
            (f"{A}86{A_END}{A}85{A_END}", "right"),
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
        def points(text: str, *, gold: str = "85", id: str = "a") -> float | None:
            sample = sample_of(text, gold=gold)
            return FUNCTIONS["random"](replace(sample, problem=replace(sample.problem, id=id)), low=-1.0, high=3.0)

        assert points("x") == points("x") == points("x", gold="0")
        assert len({points("x"), points("y"), points("x", id="b")}) == 3

    def test_it_is_spread_evenly(self) -> None:
        """4,000 draws: each tenth of the range within five standard deviations (95) of 400."""
        draws = [points_of("random", str(i), low=2.0, high=4.0) for i in range(4000)]
        assert min(draws) >= 2.0 and max(draws) < 4.0
        tenths = [sum(2 + k / 5 <= draw < 2 + (k + 1) / 5 for draw in draws) for k in range(10)]
        assert all(abs(count - 400) < 95 for count in tenths)


class TestSoftOverlong:
    """DAPO, eq. 13, with a length that may reach 20 and a cache of 8."""

    @staticmethod
    def at(num_tokens: int, *, cache_tokens: int = 8) -> float | None:
        return FUNCTIONS["soft_overlong"](
            sample_of("", num_tokens=num_tokens), max_tokens=20, cache_tokens=cache_tokens
        )

    @pytest.mark.parametrize("n, points", [(1, 0), (12, 0), (13, -1 / 8), (16, -0.5), (19, -7 / 8), (20, -1), (30, -1)])
    def test_points_by_length(self, n: int, points: float) -> None:
        assert self.at(n) == points

    def test_without_a_cache_it_is_a_step(self) -> None:
        assert [self.at(n, cache_tokens=0) for n in (19, 20, 21)] == [0, 0, -1]

    def test_a_cache_of_everything_begins_at_the_first_token(self) -> None:
        assert [self.at(n, cache_tokens=20) for n in (1, 10, 20)] == [-1 / 20, -0.5, -1]


class TestVerdicts:
    """What the verifier says reaches every function that needs right or wrong."""

    RIGHT_OR_WRONG: ClassVar = {"number_matches": {"right": 3.0, "wrong": -3.0}, "correctness": {"right": 2.0}}

    def test_a_gold_that_cannot_be_read_is_no_fault_of_the_completion(self) -> None:
        sample = sample_of(completion("London"), gold="Paris", tags=DEFAULT)
        for name, options in (self.RIGHT_OR_WRONG | {"answer": BANDS}).items():
            points = FUNCTIONS[name](sample, **options)
            assert points is not None and math.isnan(points)

    def test_a_verifier_that_does_not_apply_gives_no_points(self) -> None:
        sample = sample_of(completion("85"), verdict=NOT_APPLICABLE, tags=DEFAULT)
        assert [FUNCTIONS[name](sample, **options) for name, options in self.RIGHT_OR_WRONG.items()] == [None, None]

    def test_right_in_words_is_worth_as_much_as_the_number_again(self) -> None:
        sample = sample_of(completion("paris"), gold="Paris", verdict=RIGHT, tags=DEFAULT)
        assert FUNCTIONS["answer"](sample, **BANDS) == BANDS["stripped"]
        assert FUNCTIONS["answer"](replace(sample, verdict=WRONG), **BANDS) == BANDS["wrong"]
        assert FUNCTIONS["number"](sample, **NUMBERS) is None


def test_smooth_proximity_falls_without_a_jump() -> None:
    options: dict[str, Any] = {"top": 4.0, "bottom": -2.0, "halfway": 0.1, "missing": -2.5}
    points = [
        points_of("proximity_smooth", completion(f"{n / 100}"), gold="-100", **options) for n in range(-10000, 1000, 7)
    ]
    assert points[0] == 4.0 and all(0 < before - after < 0.05 for before, after in pairwise(points))
    zero = [points_of("proximity_smooth", completion(guess), gold="0", **options) for guess in ("0", "0.1", "1e900")]
    assert zero == pytest.approx([4.0, 1.0, -2.0])


@pytest.mark.parametrize(
    "step, truth",
    [
        ("a = 3*4 = 12", [True]),
        ("7 + 8 = 15 = 3*5", [True, True]),
        ("1. (1+2)*3 = 9.", [True]),
        ("In 2020, 2x4 = 8, and 2*2 = 5", [True, False]),
        ("$1,000 \\times 3 = $3,000", [True]),
        ("50% * 10 = 5", [True]),
        ("12*3 = 30 + 6", [True]),
        ("3 - 5 = -2", [True]),
        ("2^10 = 1024", [True]),
        ("12*3 = 36 - that is all", [True]),
        ("10/3 = 3", [False]),
        ("10/3 = 3.34", [False]),
        ("5/0 = 3", [False]),
        ("so -3 + 4 = 1", [True]),
        ("apples - 3 + 4 = 1", []),
        ("x = 12", []),
        ("3x + 4 = 10", []),
        ("12 apples * 3 = 36", []),
        ("3 + 4 = 2x", []),
        ("= =", []),
        ("9^9^9^9 = 1", []),
        ("((9^99)^99)^99 = 4", []),
        ("9**9**9**9 = 1", []),
    ],
)
def test_stated_steps(step: str, truth: list[bool]) -> None:
    assert list(stated_steps(step)) == truth


@given(st.integers(-999, 999), st.sampled_from("+-*"), st.integers(0, 999))
def test_every_true_sum_is_true_and_one_off_is_false(a: int, operator: str, b: int) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b}[operator]
    assert list(stated_steps(f"so {a} {operator} {b} = {value}, or {a}{operator}{b}={value + 1}")) == [True, False]


def test_options_are_exactly_the_documented_ones() -> None:
    for name, (options, *_) in EXAMPLES.items():
        for option in options:
            with pytest.raises(ValueError, match=rf"rewards\.{name}\.options must be exactly .*missing: {option}"):
                others = {key: value for key, value in options.items() if key != option}
                check_options(f"rewards.{name}", FUNCTIONS[name], others)
        with pytest.raises(ValueError, match="unknown: bonus"):
            check_options(f"rewards.{name}", FUNCTIONS[name], options | {"bonus": 1.0})


@pytest.mark.parametrize(
    "name, option, value, message",
    [
        ("soft_overlong", "max_tokens", 101, r"max_tokens 101 is above rollout\.max_completion_tokens 100"),
        ("soft_overlong", "cache_tokens", 21, "cache_tokens 21 must be from 0 to max_tokens 20"),
        ("proximity_smooth", "halfway", 0.0, "halfway 0 must be above 0"),
        ("repetition", "words", 0, "words 0 must be 1 or more"),
        ("language_consistency", "language", "english", "language 'english' is unknown; choose one of ar, de, "),
        ("readability", "hardest", 111.0, "hardest 111 must not be above easiest 110"),
        ("min_length", "tokens", 101, r"tokens 101 must be from 0 to 100, rollout\.max_completion_tokens"),
        ("max_length", "tokens", -1, "tokens -1 must be from 0 to 100"),
        ("too_long", "words", -1, "words -1 must not be negative"),
    ],
)
def test_values_that_make_no_sense(name: str, option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"rewards\.{name}\.options: {message}"):
        where = f"rewards.{name}.options"
        check_values(where, name, EXAMPLES[name].options | {option: value}, max_completion_tokens=100)


def test_a_column_of_keywords_that_is_no_list_is_named() -> None:
    with pytest.raises(UserError, match=r"column 'keywords' must hold a list of keywords or text .*, found 7"):
        FUNCTIONS["email_keywords"](sample_of("", columns={"keywords": 7}), column="keywords", each=1.0, complete=0.0)


COLUMNS = {"keywords": "invoice; due, now", "recipient": "Dr. Ann Lee"}
fragments = st.sampled_from(
    [R, R_END, A, A_END, "2", "-1,0.5", " ", "\n", "<", "½", "٣", "9" * 400, ".", "=", "3*", "\ud800"]
)
any_text = st.one_of(st.text(st.characters()), st.lists(fragments | st.text(max_size=3), max_size=12).map("".join))


@given(any_text, any_text | st.sampled_from(["0", "-3", "85"]), st.sampled_from(list(TAGS.values())))
def test_no_text_breaks_a_function(text: str, gold: str, tags: Tags) -> None:
    sample = sample_of(text, gold=gold, tags=tags, columns=COLUMNS)
    for name, (options, *_) in EXAMPLES.items():
        points = FUNCTIONS[name](sample, **options)
        assert points is None or (math.isnan(points) and sample.verdict.is_fault) or -5 < points < 6


@pytest.mark.parametrize("piece", ["=", "1+1=", "(", "\ud800", A + A_END, "\u0301\u0323", "a@", "invoice"])
def test_ten_megabytes_take_seconds(piece: str) -> None:
    """All functions together on a hostile completion, which quadratic ones would not end in hours."""
    text = well_formed(piece * (10**7 // len(piece)), tags=DEFAULT)
    for tagged in (text, text[: len(text) // 2]):
        started = time.process_time()  # of this process alone: the machine may be busy
        sample = sample_of(tagged, tags=DEFAULT, columns=COLUMNS)
        for name, (options, *_) in EXAMPLES.items():
            points = FUNCTIONS[name](sample, **options)
            assert points is None or not math.isnan(points)
        assert time.process_time() - started < 20


@given(any_text)
def test_only_well_formed_texts_have_more_than_the_number(text: str) -> None:
    """A text that is not well-formed never earns the format or the answer, whatever it holds."""
    if points_of("format_exact", text, gold="2", points=1.0) == 0.0:
        assert answer(text, "2") == BANDS["missing"]


@pytest.mark.parametrize("gold", ["3/4", "2 1/4", r"\frac{2}{5}", "2.5e3", "4 321", "10^4", "minus 6"])
def test_a_right_number_is_right_in_any_notation(gold: str) -> None:
    assert points_of("number", completion(gold), gold=gold, **NUMBERS) == NUMBERS["right"]
    assert points_of("number", f"{DEFAULT.answer_start}{gold}", gold=gold, **NUMBERS) == NUMBERS["right"]
    options: dict[str, Any] = {"top": 4.0, "bottom": -2.0, "halfway": 0.1, "missing": -2.5}
    assert points_of("proximity_smooth", completion(gold), gold=gold, **options) == 4.0


def test_what_the_verifier_calls_right_is_right_before_a_number_is_read() -> None:
    sample = sample_of(completion("25%"), gold="0.25", verdict=RIGHT, tags=DEFAULT)
    assert FUNCTIONS["number"](sample, **NUMBERS) == NUMBERS["right"]
    assert FUNCTIONS["answer"](sample, **BANDS) == BANDS["stripped"]


@pytest.mark.parametrize("text", ["?" * 300, "你好" * 300, "no" * 300, "。" * 300, "มา" * 200, "=" * 90])
def test_repetition_is_seen_without_spaces(text: str) -> None:
    assert points_of("repetition", text, words=3, points=-1.0) < -0.95


@pytest.mark.parametrize("padding", ["\n" * 500, "\r\n" * 300, " " * 500, "\t" * 500, "\n \n\t" * 200, "\u3000" * 500])
@pytest.mark.parametrize("text", ["{}", "<answer>8</answer>{}", "We add{} 3 and 5."])
def test_padding_with_white_space_is_repetition(padding: str, text: str) -> None:
    assert points_of("repetition", text.format(padding), words=3, points=-1.0) < -0.9


@pytest.mark.parametrize(
    "text",
    [
        "one two\n\n\nthree four\n\n\nfive six\n",
        "def f(x):\n" + " " * 24 + "return x\n\n\n" + "name" + " " * 40 + "price",
        "see https://example.com/books/maths/page?number=12&part=3&language=en#answer for the whole proof",
        r"we get \frac{1}{2}+\frac{1}{3}=\frac{5}{6} and that is the sum",
        "今天的天气很好，我们去公园散步吧",
        "| item | price |\n|---|---|\n| tea | 3 |",
    ],
)
def test_text_that_repeats_nothing_is_not_punished(text: str) -> None:
    assert points_of("repetition", text, words=3, points=-1.0) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("language", "text", "low", "high"),
    [
        ("en", "prit slamo drenk vosta quilm heb", 0.0, 0.4),
        ("en", "Saya punya tujuh buku dan adik saya memberikan empat lagi kepada teman kami", 0.0, 0.4),
        ("en", "Altı kitabım vardı ve kardeşim bana dört tane daha verdi", 0.0, 0.4),
        ("en", "so we add " + "我们先把两个数相加" * 30, 0.0, 0.1),
        ("en", "so we add " + "ผมมีหนังสือเจ็ดเล่ม" * 30, 0.0, 0.1),
        ("en", "Each box holds 12 pens, so 4 boxes hold 48 pens. Then we add the 7 that were left.", 1.0, 1.0),
        ("en", r"Thus \frac{84}{7} = 12, so the answer is \boxed{12} and there is nothing left", 1.0, 1.0),
        ("en", "Add 12", 1.0, 1.0),
        ("de", "Zuerst teilen wir die Summe, dann ist das Ergebnis zwölf.", 1.0, 1.0),
        ("zh", "我们先把两个数相加，得到十二", 1.0, 1.0),
        ("th", "ผมมีหนังสือเจ็ดเล่ม", 1.0, 1.0),
    ],
)
def test_language_consistency(language: str, text: str, low: float, high: float) -> None:
    found = points_of("language_consistency", completion("85", text), language=language, points=1.0)
    assert low <= found <= high


@pytest.mark.parametrize(
    ("text", "is_long"),
    [
        ("字" * 60, True),
        ("ก" * 60, True),
        ("a" * 200, True),
        ("four words are fine", False),
        ("这是四个", False),
    ],
)
def test_too_long_counts_words_of_every_script(text: str, is_long: bool) -> None:
    points = points_of("too_long", completion(text), words=4, points=-1.0)
    assert points == (-1.0 if is_long else 0.0)
    beyond = completion("ok") + f" {text}"
    assert points_of("too_long", beyond, words=5, points=-1.0) == points


def test_too_long_does_not_read_the_reasoning() -> None:
    text = completion("ok", f"the tag {DEFAULT.answer_start} comes after a lot of words like these")
    assert points_of("too_long", text, words=4, points=-1.0) == 0.0


@pytest.mark.parametrize(
    "end", ["on 03/11/2028.", "2028-11-03", "3.11.2028 9:15", "2021-2024", "1 400 000 EUR", "20281103"]
)
def test_dates_and_amounts_are_no_signature(end: str) -> None:
    assert points_of("signature_block", completion(f"Kind regards, Kim, {end}"), points=1.0) == 0.0


@pytest.mark.parametrize("end", ["06 12 34 56 78", "030/7654321", "(555) 765-4321", "+49 151 7654321, on 03/11/2028"])
def test_a_phone_number_is_a_signature(end: str) -> None:
    assert points_of("signature_block", completion(f"Kind regards, Kim, {end}"), points=1.0) == 1.0


def test_true_steps_gain_nothing_by_themselves() -> None:
    def of(answer: str, reasoning: str) -> float | None:
        return FUNCTIONS["step_check"](sample_of(completion(answer, reasoning), tags=DEFAULT), points=1.0)

    assert of("85", "80 + 5 = 85") == 1.0
    assert of("84", "2 + 2 = 4") == 0.0
    assert of("85", "3 + 3 = 7; " + "2 + 2 = 4; " * 50) == 0.0
    assert of("84", "it must be so") is None
    sample = sample_of(completion("85", "80 + 5 = 85"), verdict=fault("endpoint", "down"), tags=DEFAULT)
    assert math.isnan(FUNCTIONS["step_check"](sample, points=1.0) or 0.0)
