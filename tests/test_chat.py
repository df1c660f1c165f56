"""Tags, answers, numbers and prompts."""

from __future__ import annotations

import re
from types import SimpleNamespace
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
    opening_of,
    other_opening,
    read,
    render_prompt,
    render_target,
)
from rlvr.tasks.arithmetic import problem
from rlvr.types import Problem, UserError

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
            (f"{R}I use {A} and {A_END}.{R_END}{A}2{A_END}", "2"),
            (f"{R}a{A}b{R_END}{A}2{A_END}", "2"),
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
            (f"{A}2{A_END}{A}3{A_END}", "3"),
            (f"{A}2{A_END} or is it {A}3", "2"),
            (f"{A_END}{A}2", "2"),
            (f"{A}1{A}2{A_END}{A_END}", "2"),
            (f"{R}The tags are {A} and {A_END}.{R_END}{A}2{A_END}", "2"),
            (f"{R}The tags are {A} and {A_END}.{R_END}So it is 2.", None),
            (f"{R}a{R_END}It stands in {A} and {A_END}: {A}2{A_END}", "2"),
            (f"no reasoning {A} it is 2 {A_END} done", " it is 2 "),
            (f"{A}", ""),
            ("2", None),
            (f"2{A_END}", None),
            ("", None),
        ],
    )
    def test_the_last_answer_after_the_reasoning(self, text: str, found: str | None) -> None:
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
    assert answer is None or all(text.rpartition(R_END)[2].count(mark) == 1 for mark in (A, A_END))
    reading = read(text, DEFAULT)
    assert (reading.answer, reading.tagged) == (answer, extract_tagged(text, DEFAULT))
    assert reading.counts == tuple(map(text.count, DEFAULT.marks()))
    last_number(text)


@given(any_text, st.sampled_from(list(TAGS.values())))
def test_well_formed_is_what_this_pattern_matches(text: str, tags: Tags) -> None:
    start, end, answer_start, answer_end = map(re.escape, tags.marks())
    inside = f"(?:(?!{start}|{end}|{answer_start}|{answer_end}).)"
    reasoning = f"(?:(?!{start}|{end}).)"
    pattern = rf"\s*{start}{reasoning}+{end}\s*{answer_start}({inside}+){answer_end}\s*"
    for candidate in (text, tags.reasoning_start + text, "".join([R, "x", R_END, text, A, "2", A_END])):
        assert (re.fullmatch(pattern, candidate, re.DOTALL) is None) == (extract_answer(candidate, tags) is None)


inside = st.text().filter(lambda text: text and not any(mark in text for mark in DEFAULT.marks()))


@given(inside, inside)
def test_any_reasoning_and_answer_come_back(working: str, answer: str) -> None:
    assert extract_answer(completion(working, answer), DEFAULT) == answer


BOX = TAGS["boxed"]


class TestBox:
    @pytest.mark.parametrize(
        "text, answer",
        [
            (r"<think>a</think>\boxed{2}", "2"),
            (r"<think>a</think>\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
            (r"<think>a</think>The answer is $\boxed{x^{2}}$.", "x^{2}"),
            (r"<think>Put it in \boxed{}, as \boxed{1}.</think> \boxed{\{1, 2\}} ", r"\{1, 2\}"),
            (r"<think>a</think>\boxed{2", None),
            (r"<think>a</think>\boxed{}", None),
            (r"<think>a</think>2", None),
            (r"<think>a \boxed{2}</think>", None),
            (r"\boxed{2}", None),
            (r"<think>a</think>\boxed{2} or \boxed{3}", None),
            (r"<think>a</think>\boxed{2} or \boxed{3", None),
            (r"<think>a</think>\boxed {2}", "2"),
            ("<think>a</think>\\boxed\n{x^{2}}", "x^{2}"),
            (r"<think>a</think>\boxed 2", "2"),
            (r"<think>a</think>It is $\boxed 12$.", "12"),
            (r"<think>a</think>\boxed -1,234.5.", "-1,234.5"),
            (r"<think>a</think>\boxed3", "3"),
            (r"<think>a</think>The answer is \boxed B.", "B"),
            (r"<think>a</think>$\fbox{2}$", "2"),
            (r"<think>a</think>\fbox {\frac{1}{2}}", r"\frac{1}{2}"),
            (r"<think>Use \boxed 1 or \fbox{}.</think>\boxed{2}", "2"),
            (r"<think>a</think>\boxed{2} or \fbox{3}", None),
            (r"<think>a</think>\boxed{2} or \boxed 3", None),
            (r"<think>a</think>\boxed 2 or \boxed 3", None),
            (r"<think>a</think>the answer is \boxed below", None),
            (r"<think>a</think>\boxed", None),
            (r"<think>a</think>\boxed {", None),
            (r"<think>a</think>\boxed 2x", None),
            (r"<think>a</think>\boxed 2.5x", None),
            (r"<think>a</think>\boxed 2\pi", None),
            (r"<think>a</think>\boxed 10^3", None),
            (r"<think>a</think>\boxed 12 or 13", None),
            (r"<think>a</think>\boxed 7:30", None),
            (r"<think>a</think>\boxed I think 5", None),
            (r"<think>a</think>\boxedx{2}", None),
        ],
    )
    def test_braces_are_counted_and_words_may_stand_around(self, text: str, answer: str | None) -> None:
        assert extract_answer(text, BOX) == answer

    @pytest.mark.parametrize(
        "text, tagged",
        [
            (r"\boxed{1} then \boxed{\sqrt{2}}", r"\sqrt{2}"),
            (r"\boxed{a \boxed{b}}", r"a \boxed{b}"),
            (r"<think>\boxed{}</think>no box", None),
            (r"so \boxed{12", "12"),
            (r"so \boxed {12", "12"),
            (r"\boxed{1} then \fbox{2}", "2"),
            (r"\boxed{1} then \boxed 2", "2"),
            ("}}}", None),
        ],
    )
    def test_the_last_box_is_read(self, text: str, tagged: str | None) -> None:
        assert extract_tagged(text, BOX) == tagged

    def test_many_boxes_that_do_not_close_are_read_in_time(self) -> None:
        assert extract_answer("<think>a</think>" + r"\boxed{" * 50_000, BOX) is None
        assert read("{" * 200_000 + "}" * 200_000, BOX).counts == (0, 0, 0, 0)

    @given(st.text().filter(lambda text: text.strip() and not set(text) & set("{}\\<")))
    def test_any_answer_without_braces_comes_back(self, answer: str) -> None:
        target = render_target(Problem("p", "?", answer, "so", 1), BOX)
        assert extract_answer(target, BOX) == answer


class TestTagsThatCannotWork:
    @pytest.mark.parametrize(
        "tags, reason",
        [
            (("#", "##", "###", "####"), "'#' occurs in reasoning"),
            (("##", "###", "####", "#####"), "'##' is a part of the tag '###'"),
            (("[", "]", "[[", "]]"), "'\\[' occurs in reasoning"),
            (("[[", "]]", "[[[", "]]]"), "'\\[\\[' is a part of the tag"),
            (("<a>", "<b>", "1", "2"), "'1' occurs in reasoning"),
            (("<think>", "</think>", "answer", "final answer"), "'answer' is a part of"),
            (("<r>", "=2", "<a>", "</a>"), "no answer can be read from"),
        ],
    )
    def test_they_are_refused_with_the_reason(self, tags: tuple[str, ...], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            Tags.of(dict(zip(Tags.__dataclass_fields__, tags, strict=True)))

    def test_a_box_among_own_tags_is_fine(self) -> None:
        names = dict(zip(Tags.__dataclass_fields__, ("<r>", "</r>", "\\boxed{", "}"), strict=True))
        assert extract_answer(r"<r>a</r>It is \boxed{\frac{1}{2}}", Tags.of(names)) == r"\frac{1}{2}"


class Template:
    """A tokenizer that is only its chat template."""

    def __init__(self, template: str) -> None:
        self.template = template

    def apply_chat_template(
        self, chat: list[dict[str, str]], *, chat_template: str | None, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        from jinja2 import Environment  # noqa: PLC0415

        return (
            Environment(keep_trailing_newline=True)
            .from_string(self.template)
            .render(messages=chat, add_generation_prompt=True)
        )


LOOP = "{% for i in range(100000) %}"
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]\n"


class TestOpening:
    def settings(self, tags: str, *, is_open: bool = False) -> Any:
        return SimpleNamespace(tags=tags, open_in_prompt=is_open)

    @pytest.mark.parametrize("is_open", [False, True])
    def test_a_template_that_opens_the_reasoning_gives_the_tag_once(self, is_open: bool) -> None:
        tokenizer = Template(CHAT + "<think>\n")
        opening = opening_of(self.settings("think", is_open=is_open), tokenizer)
        assert (opening.given, opening.added) == ("<think>\n", "")
        assert read(opening.given + "so</think><answer>4</answer>", TAGS["think"]).answer == "4"

    @pytest.mark.parametrize("end", ["", "<think>\n\n</think>\n\n", "<think", "<reasoning>"])
    def test_any_other_template_leaves_it_to_the_settings(self, end: str) -> None:
        tokenizer = Template(CHAT + end)
        assert opening_of(self.settings("think"), tokenizer).given == ""
        opening = opening_of(self.settings("think", is_open=True), tokenizer)
        assert (opening.given, opening.added) == ("<think>", "<think>")

    def test_a_tag_that_the_template_only_mentions_opens_nothing(self) -> None:
        tokenizer = Template("Use <think> first.\n" + CHAT)
        assert opening_of(self.settings("think"), tokenizer).given == ""

    def test_the_opening_of_another_format_is_found(self) -> None:
        tokenizer = Template(CHAT + "<think>\n")
        assert other_opening(self.settings("working_out"), tokenizer) == "<think>"
        assert other_opening(self.settings("boxed"), tokenizer) is None


class TestConversations:
    TURNS = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "2"},
    )

    def test_the_turns_before_the_question_are_kept_and_their_system_prompt_wins(self) -> None:
        text = render_prompt(Template(CHAT), "3?", system_prompt="Other.", opening="", context=self.TURNS)
        assert text == "[system]Be brief.\n[user]1?\n[assistant]2\n[user]3?\n[assistant]\n"

    def test_a_template_without_system_prompts_gets_it_in_the_first_turn(self) -> None:
        template = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
        text = render_prompt(Template(template), "3?", system_prompt="Other.", opening="", context=self.TURNS)
        assert text == "[user]Be brief.\n\n1?\n[assistant]2\n[user]3?\n"

    @pytest.mark.parametrize("template", ["{% for %}", "{{ 1 / 0 }}", "{{ messages.x.y }}", "{{ 'a' + 1 }}"])
    def test_a_template_that_breaks_is_one_message(self, template: str) -> None:
        with pytest.raises(UserError, match="the model's chat template cannot write a chat of user"):
            render_prompt(Template(template), "3?", system_prompt=None, opening="")

    @pytest.mark.parametrize(
        ("template", "why"),
        [
            (f"{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}", r"TooLong: it was stopped after 0\.5 seconds"),
            (f"{LOOP}{{{{ 'a' * 100000 }}}}{{% endfor %}}", "MemoryError"),
            ("{{ 'a' * 10 ** 12 }}", "MemoryError"),
            ("{{ 'a' * 2 ** 21 }}", "writes 2,097,152 characters for a chat of user, more than 1,048,576"),
        ],
    )
    def test_a_template_that_never_ends_is_stopped(
        self, template: str, why: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rlvr.chat.RENDER_SECONDS", 0.5)
        with pytest.raises(UserError, match=why):
            render_prompt(Template(template), "3?", system_prompt=None, opening="")

    def test_a_long_question_is_no_long_template(self) -> None:
        question = "x" * 2**21
        assert question in render_prompt(Template(CHAT), question, system_prompt=None, opening="")


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
