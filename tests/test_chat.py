"""Tags, answers, numbers and prompts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.chat import (
    TAGS,
    Tags,
    extract_answer,
    extract_tagged,
    last_number,
    messages,
    read,
    render_prompt,
    render_target,
)
from rlvr.tasks.arithmetic import problem
from rlvr.types import Problem

DEFAULT = TAGS["working_out"]
R, R_END, A, A_END = DEFAULT.marks()
EVERY_TAGS = pytest.mark.parametrize("name", TAGS)


def completion(working: str = "1+1+0=2", answer: str = "2") -> str:
    return f"{R}{working}{R_END}{A}{answer}{A_END}"


class TestWellFormed:
    @EVERY_TAGS
    def test_what_the_pre_finetune_teaches_is_well_formed_in_every_tag_form(self, name: str) -> None:
        target = render_target(problem(47, 38, 2), TAGS[name])
        assert extract_answer(target, TAGS[name]) == "85"
        assert extract_tagged(target, TAGS[name]) is not None

    def test_targets_are_written_out(self) -> None:
        assert render_target(problem(47, 38, 2), TAGS["working_out"]) == (
            "<start_working_out>7+8+0=15;4+3+1=8<end_working_out><SOLUTION>85</SOLUTION>"
        )
        assert render_target(problem(47, 38, 2), TAGS["think"]) == (
            "<think>7+8+0=15;4+3+1=8</think><answer>85</answer>"
        )
        assert render_target(problem(47, 38, 2), TAGS["xml"]) == (
            "<reasoning>\n7+8+0=15;4+3+1=8\n</reasoning>\n<answer>\n85\n</answer>\n"
        )

    @EVERY_TAGS
    def test_of_other_tags_it_is_not(self, name: str) -> None:
        target = render_target(problem(47, 38, 2), TAGS[name])
        assert [other for other in TAGS if extract_answer(target, TAGS[other]) is not None] == [name]

    @pytest.mark.parametrize(
        "text, answer",
        [
            (completion(), "2"),
            (f" \n{R}a{R_END}\n {A}2{A_END} \n", "2"),
            (f"{R}a\nb{R_END}{A} 2\n{A_END}", " 2\n"),
            (f"{R}<b>a</b>{R_END}{A}<i>2</i>{A_END}", "<i>2</i>"),
            (f"{R}*?.+({R_END}{A}2{A_END}", "2"),
        ],
    )
    def test_white_space_around_and_anything_but_tags_inside(self, text: str, answer: str) -> None:
        assert extract_answer(text, DEFAULT) == answer

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "2",
            R,
            f"{R}a{R_END}",
            f"{A}2{A_END}",
            f"a{R_END}{A}2{A_END}",
            f"{R}a{A}2{A_END}",
            f"{R}a{R_END}2{A_END}",
            f"{R}a{R_END}{A}2",
            f"{R}{R_END}{A}2{A_END}",
            f"{R}a{R_END}{A}{A_END}",
            f"x{completion()}",
            f"{completion()}x",
            f"{R}a{R_END}x{A}2{A_END}",
            f"{A}2{A_END}{R}a{R_END}",
            f"{R}a{A}2{A_END}{R_END}",
            f"{R}a{R}b{R_END}{A}2{A_END}",
            f"{R}a{A}b{R_END}{A}2{A_END}",
            f"{R}a{R_END}{R_END}{A}2{A_END}",
            f"{R}a{R_END}{A}2{A_END}{A}3{A_END}",
            f"{R}a{R_END}{A}2{A}3{A_END}",
            completion() * 2,
            completion().replace(R, R.upper()),
            completion().replace(A, " ".join(A)),
        ],
    )
    def test_each_tag_once_in_order_and_nothing_else(self, text: str) -> None:
        assert extract_answer(text, DEFAULT) is None

    def test_the_opening_given_away_by_the_prompt_completes_the_text(self) -> None:
        """With open_in_prompt the model writes the rest; rewards read opening and rest together."""
        for tags in TAGS.values():
            rest = render_target(problem(1, 2, 1), tags).removeprefix(tags.reasoning_start)
            assert extract_answer(rest, tags) is None
            assert extract_answer(tags.reasoning_start + rest, tags) == "3"

    def test_a_long_text_without_end_is_read_in_time(self) -> None:
        """No quadratic search: 200,000 characters of almost matching text."""
        for text in (R + "a" * 200_000, R + f"{A}" * 20_000, " " * 200_000, R + "<" * 200_000 + R_END):
            assert extract_answer(text, DEFAULT) is None


class TestLenient:
    @pytest.mark.parametrize(
        "text, found",
        [
            (completion(answer="2"), "2"),
            (f"{A}2", "2"),
            (f"{A}2{A_END}{A}3{A_END}", "2"),
            (f"no reasoning {A} it is 2 {A_END} done", " it is 2 "),
            (f"{A}", ""),
            ("2", None),
            (f"2{A_END}", None),
            ("", None),
        ],
    )
    def test_what_follows_the_first_answer_tag(self, text: str, found: str | None) -> None:
        assert extract_tagged(text, DEFAULT) == found

    @pytest.mark.parametrize(
        "text, number",
        [
            ("so 47+38 is 85.", "85"),
            ("85", "85"),
            ("it is -3.5!", "-3.5"),
            ("1,234 or 5,678", "5,678"),
            ("about .5", ".5"),
            ("3 apples", "3"),
            ("none", None),
            ("", None),
        ],
    )
    def test_the_last_number(self, text: str, number: str | None) -> None:
        assert last_number(text) == number


# Texts of tags, numbers and rubbish: they meet the branches that random characters do not.
fragments = st.sampled_from([R, R_END, A, A_END, "2", "-1,0.5", " ", "\n", "<", "½", "٣", "9" * 400])
any_text = st.one_of(st.text(st.characters()), st.lists(fragments | st.text(max_size=3), max_size=12).map("".join))


@given(any_text)
def test_no_text_raises(text: str) -> None:
    answer = extract_answer(text, DEFAULT)
    assert answer is None or all(text.count(mark) == 1 for mark in DEFAULT.marks())
    reading = read(text, DEFAULT)
    assert (reading.answer, reading.tagged) == (answer, extract_tagged(text, DEFAULT))
    assert reading.counts == tuple(map(text.count, DEFAULT.marks()))
    last_number(text)


@given(any_text, st.sampled_from(list(TAGS.values())))
def test_well_formed_is_what_this_pattern_matches(text: str, tags: Tags) -> None:
    start, end, answer_start, answer_end = map(re.escape, tags.marks())
    inside = f"(?:(?!{start}|{end}|{answer_start}|{answer_end}).)"
    pattern = rf"\s*{start}{inside}+{end}\s*{answer_start}({inside}+){answer_end}\s*"
    for candidate in (text, tags.reasoning_start + text, "".join([R, "x", R_END, text, A, "2", A_END])):
        assert (re.fullmatch(pattern, candidate, re.DOTALL) is None) == (extract_answer(candidate, tags) is None)


inside = st.text().filter(lambda text: text and not any(mark in text for mark in DEFAULT.marks()))


@given(inside, inside)
def test_any_reasoning_and_answer_come_back(working: str, answer: str) -> None:
    assert extract_answer(completion(working, answer), DEFAULT) == answer


class TestPrompts:
    def test_messages(self) -> None:
        assert messages("1+1?", None) == messages("1+1?", "") == [{"role": "user", "content": "1+1?"}]
        assert messages("1+1?", "Be brief.") == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1+1?"},
        ]

    def test_prompts_of_the_built_in_template(self, tokenizer: Any) -> None:
        def render(system_prompt: str | None, opening: str) -> str:
            return render_prompt(tokenizer, "What is 1+1?", system_prompt=system_prompt, opening=opening)

        assert render(None, "") == "<|user|>What is 1+1?<|assistant|>"
        assert render("Be brief.", "") == "<|system|>Be brief.<|user|>What is 1+1?<|assistant|>"
        assert render(None, R) == f"<|user|>What is 1+1?<|assistant|>{R}"


@pytest.mark.parametrize("missing", list(Tags.__dataclass_fields__))
def test_own_tags_must_be_complete(missing: str) -> None:
    values = {name: f"<{name}>" for name in Tags.__dataclass_fields__}
    assert Tags.of(values).marks() == tuple(values.values())
    with pytest.raises(ValueError, match="must have exactly the keys"):
        Tags.of({name: value for name, value in values.items() if name != missing})


def test_problems_without_working_or_with_text_answers_are_rendered() -> None:
    target = render_target(Problem("p", "Capital?", "Paris", "", 1), DEFAULT)
    assert target == f"{R}{R_END}{A}Paris{A_END}"
