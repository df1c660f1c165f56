"""Tables as other trainers lay them out, prompts from several columns, paths into columns, several golds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from rlvr.tasks import Pools
from rlvr.types import Problem, UserError

Load = Callable[..., Pools]
NONE: dict[str, Any] = {"columns__working": None, "columns__level": None}
USER = {"role": "user", "content": "Two plus three?"}
SYSTEM = {"role": "system", "content": "Answer with a number."}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def one(load: Load, *rows: dict[str, Any], kind: str = "jsonl", **changes: Any) -> Problem:
    """The first row as a problem."""
    path = Path(f"data/raw/mine.{kind}")
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        pd.DataFrame(list(rows)).to_parquet(path)
    return next(p for p in load(str(path), **NONE | changes).training if p.id == "row-1")


@pytest.mark.parametrize("gold", ["answer", "solution", "ground_truth", "completion"])
def test_a_prompt_of_trl_may_be_text(load: Load, gold: str) -> None:
    found = one(load, {"prompt": "Two plus three?", gold: " 5", "topic": "sums"})
    assert (found.question, found.golds, found.columns) == ("Two plus three?", ("5",), {"topic": "sums"})


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_a_conversation_in_a_cell_of_text_is_read(load: Load, write: Callable[[Any], str]) -> None:
    """A CSV has no lists: libraries write them as JSON or as Python does."""
    found = one(load, {"prompt": write([SYSTEM, USER]), "answer": "5"})
    assert (found.context, found.question, found.answer) == ((SYSTEM,), USER["content"], "5")


@pytest.mark.parametrize("text", ["[{x}]", "[{'role': 1}]", '[{"a": 2}] is what?', "[{" * 5000 + "]"])
def test_other_text_with_brackets_stays_text(load: Load, text: str) -> None:
    assert one(load, {"question": text, "answer": "5"}).question == text


def test_a_prompt_without_a_gold_is_no_table_of_trl(load: Load) -> None:
    with pytest.raises(UserError, match="has no column 'question'; it has prompt, text"):
        one(load, {"prompt": "Two plus three?", "text": "5"})


class TestTemplates:
    CHOICE = "{stem}\nA) {A}\nB) {B}\nC) {C}"

    def test_a_question_of_several_columns(self, load: Load) -> None:
        row = {"stem": "Which is even?", "A": 3, "B": 4.0, "C": None, "key": "B"}
        found = one(load, row, columns__question=self.CHOICE, columns__answer="key")
        assert found.question == "Which is even?\nA) 3\nB) 4", "a line without a value is left out"
        assert found.columns == {"stem": "Which is even?", "A": 3, "B": 4.0, "C": None}

    def test_one_stem_with_other_options_is_another_question(self, load: Load) -> None:
        rows = [{"stem": "Which?", "A": i, "B": i + 1, "C": i + 2, "key": "A"} for i in range(3)]
        one(load, *rows, columns__question=self.CHOICE, columns__answer="key")
        found = load("data/raw/mine.jsonl", columns__question=self.CHOICE, columns__answer="key", **NONE)
        assert len({p.question for p in found.training}) == 3

    def test_braces_are_written_twice_and_values_keep_theirs(self, load: Load) -> None:
        row = {"x": r"\frac{{a}}{b}", "y": "2"}
        found = one(load, row, columns__question=r"Is {x} in {{1, 2}}? Use \boxed{{}}, {{{y}}}.", columns__answer="y")
        assert found.question == r"Is \frac{{a}}{b} in {1, 2}? Use \boxed{}, {2}."

    def test_a_column_may_have_braces_in_its_name(self, load: Load) -> None:
        assert one(load, {"{a}": "q", "answer": "1"}, columns__question="{a}").question == "q"

    def test_an_unknown_place_is_named(self, load: Load) -> None:
        with pytest.raises(UserError, match=r"columns\.question: .* has no column 'quest'; it has .*mean question\?"):
            one(load, {"question": "q", "answer": "1"}, columns__question="{quest}!")

    def test_a_row_without_any_of_its_values_is_left_out(self, load: Load) -> None:
        rows = [{"stem": "q", "key": "1"}, {"stem": "", "key": "1"}]
        one(load, *rows, columns__question="Say: {stem}", columns__answer="key")
        found = load("data/raw/mine.jsonl", columns__question="Say: {stem}", columns__answer="key", **NONE)
        assert found.origin["left_out"] == {"empty question or answer": 1}


class TestPaths:
    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_into_mappings_and_lists(self, kind: str, load: Load) -> None:
        row = {"prompt": [USER], "extra": {"gold": {"value": 5}, "notes": ["a", "b"]}}
        names = {"columns__question": "prompt.0.content", "columns__answer": "extra.gold.value"}
        found = one(load, row, kind=kind, **names, columns__working="extra.notes.-1")
        assert (found.question, found.answer, found.working) == ("Two plus three?", "5", "b")

    def test_a_column_with_a_dot_in_its_name_comes_first(self, load: Load) -> None:
        assert one(load, {"a.b": "q", "a": {"b": "no"}, "answer": 1}, columns__question="a.b").question == "q"

    def test_one_that_leads_nowhere_is_refused_with_what_there_is(self, load: Load) -> None:
        with pytest.raises(UserError, match=r"nothing at 'extra\.glod'; the column 'extra' holds its keys gold, why"):
            one(load, {"question": "q", "extra": {"gold": 1, "why": ""}}, columns__answer="extra.glod")

    @pytest.mark.parametrize(
        "value, message",
        [({"a": 1}, r"found dict of a; name a value in it, as question\.KEY"), (["a"], r"found list; .*question\.0")],
    )
    def test_a_question_that_is_no_text_says_how_to_reach_it(self, value: Any, message: str, load: Load) -> None:
        with pytest.raises(UserError, match=message):
            one(load, {"question": value, "answer": 1})


class TestLayouts:
    VERL: ClassVar[dict[str, Any]] = {
        "data_source": "mine", "prompt": [SYSTEM, USER], "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "5"}, "extra_info": {"split": "train", "index": 0},
    }  # fmt: skip
    ROWS: tuple[tuple[dict[str, Any], str, str], ...] = (
        (VERL, "5", ""),
        ({"prompt": [SYSTEM, USER], "solution": "5"}, "5", ""),
        ({"prompt": [SYSTEM, USER], "answer": 5}, "5", ""),
        ({"prompt": [SYSTEM, USER], "completion": [reply("5")]}, "5", ""),
        ({"messages": [SYSTEM, USER, reply("5")]}, "5", ""),
        ({"messages": [SYSTEM, USER, reply("2 + 3 = 5")], "answer": "5"}, "5", "2 + 3 = 5"),
        (
            {
                "conversations": [
                    {"from": "system", "value": SYSTEM["content"]},
                    {"from": "human", "value": USER["content"]},
                    {"from": "gpt", "value": "5"},
                ]
            },
            "5",
            "",
        ),
    )

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    @pytest.mark.parametrize("row, answer, working", ROWS)
    def test_they_are_read_as_they_are_and_it_is_said(
        self, row: dict[str, Any], answer: str, working: str, kind: str, load: Load
    ) -> None:
        found = one(load, row, kind=kind)
        assert (found.question, found.answer, found.working) == (USER["content"], answer, working)
        assert found.context == (SYSTEM,)
        (warning,) = load(f"data/raw/mine.{kind}", **NONE).origin["warnings"]
        assert "was read as conversations, as if prepare.records.columns had question: " in warning

    def test_named_columns_need_no_guess(self, load: Load) -> None:
        names = {"columns__question": "prompt", "columns__answer": "reward_model"}
        assert one(load, self.VERL, **names).answer == "5"
        assert load("data/raw/mine.jsonl", **NONE | names).origin["warnings"] == []

    def test_earlier_turns_are_kept(self, load: Load) -> None:
        chat = [SYSTEM, USER, reply("5"), {"role": "user", "content": "Twice that?"}]
        found = one(load, {"chat": chat, "answer": 10}, columns__question="chat")
        assert found.question == "Twice that?" and found.context == (SYSTEM, USER, reply("5"))

    def test_contents_may_be_lists_of_texts(self, load: Load) -> None:
        content = [{"type": "text", "text": "Two plus"}, {"type": "text", "text": "three?"}]
        found = one(load, {"messages": [{"role": "user", "content": content}, reply("5")]})
        assert found.question == "Two plus\nthree?"

    @pytest.mark.parametrize(
        "chat, message",
        [
            ([USER, {"role": "tool", "content": "5"}], "role 'tool'; only system, user and assistant"),
            ([SYSTEM], "must end with a user's turn"),
            ([{"role": "user", "content": [{"type": "image", "image": "x"}]}], "a part without text, such as an image"),
            ([{"role": "user", "content": 5}], "the content of a turn must be text, found int"),
        ],
    )
    def test_what_cannot_be_read_is_one_message(self, chat: list[Any], message: str, load: Load) -> None:
        with pytest.raises(UserError, match=f"row 1: .*{message}"):
            one(load, {"chat": chat, "answer": 1}, columns__question="chat")

    CALL: ClassVar = {"role": "assistant", "tool_calls": [{"name": "add"}]}
    FAULTY: ClassVar[list[tuple[list[Any], str]]] = [
        ([USER, CALL], "turn 2 .assistant. has no content, only tool calls"),
        (
            [USER, CALL, {"role": "tool", "content": "5"}, reply("5")],
            "turn 2 .assistant. has no content, only tool calls",
        ),
        ([], "the conversation has no turns: leave the row out"),
        ([USER, {"content": "5"}], "turn 2 has no role: write who speaks"),
        ([{"role": "user"}, reply("5")], "turn 1 .user. has no content: leave the row out"),
        ([USER, "five"], "turn 2 is no object with role and content, but str"),
        ([{"from": "human", "text": "5"}], "turn 1 .human. has no value"),
    ]

    @pytest.mark.parametrize("place", [1, 2])
    @pytest.mark.parametrize("chat, message", FAULTY)
    def test_a_turn_that_cannot_be_read_is_named_with_its_row(
        self, chat: list[Any], message: str, place: int, load: Load
    ) -> None:
        rows = [{"messages": [USER, reply("5")]}]
        rows.insert(place - 1, {"messages": chat})
        with pytest.raises(UserError, match=f"row {place}: column 'messages': {message}"):
            one(load, *rows)

    @pytest.mark.parametrize("chat, message", FAULTY)
    def test_a_column_of_such_turns_is_named(self, chat: list[Any], message: str, load: Load) -> None:
        with pytest.raises(UserError, match=f"row 1: column 'messages': {message}"):
            one(load, {"messages": chat}, {"messages": chat})

    def test_a_prompt_of_text_needs_no_turns(self, load: Load) -> None:
        found = one(load, {"prompt": "What is 2+3?", "completion": "5", "messages": []})
        assert (found.question, found.answer) == ("What is 2+3?", "5")

    @pytest.mark.parametrize("content", [None, "", " "])
    def test_a_last_turn_without_text_is_named(self, content: str | None, load: Load) -> None:
        with pytest.raises(UserError, match=r"row 1: turn 2 \(assistant\), the last of 'messages', has no text"):
            one(load, {"messages": [USER, {"role": "assistant", "content": content}]})
        with_gold = {"messages": [USER, {"role": "assistant", "content": content}], "answer": "5"}
        assert one(load, with_gold).answer == "5"


class TestGolds:
    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_a_list_is_several_golds(self, kind: str, load: Load) -> None:
        found = one(load, {"question": "Capital of the Netherlands?", "answer": ["Amsterdam", "A'dam", ""]}, kind=kind)
        assert (found.answer, found.accepted, found.golds) == ("Amsterdam", ("A'dam",), ("Amsterdam", "A'dam"))

    def test_one_in_a_list_is_one(self, load: Load) -> None:
        assert one(load, {"question": "q", "answer": ["x"]}).golds == ("x",)

    def test_none_in_a_list_is_none(self, load: Load) -> None:
        with pytest.raises(UserError, match="none of the 1 rows is left"):
            one(load, {"question": "q", "answer": []})

    @pytest.mark.parametrize(
        "value, gold",
        [
            ([{"stdin": "", "stdout": "0"}], [{"stdin": "", "stdout": "0"}]),
            ({"type": "object"}, {"type": "object"}),
            (
                ["assert f(1) == 2", "assert f(2) == 3"],
                [{"assert": "assert f(1) == 2"}, {"assert": "assert f(2) == 3"}],
            ),
        ],
    )
    def test_tests_and_schemas_become_json(self, value: Any, gold: Any, load: Load) -> None:
        assert json.loads(one(load, {"question": "q", "answer": value}).answer) == gold


class TestLevels:
    @pytest.mark.parametrize(
        "value, level",
        [("Level 3", 3), (4.0, 4), ("grade 12", 12), ("easy", 0), ("", 0), (None, 0), (1.5, 0), ("3-5", 0), (-2, 0)],
    )
    def test_the_number_or_none(self, value: Any, level: int, load: Load) -> None:
        row = {"question": "q", "answer": 1}
        found = one(load, row | {"level": value}, row | {"level": 1}, columns__level="level")
        assert found.level == level
        warnings = load("data/raw/mine.jsonl", **NONE | {"columns__level": "level"}).origin["warnings"]
        assert [w for w in warnings if "1 of 2 rows have no whole number in column 'level'" in w] == warnings
        assert bool(warnings) == (level == 0)

    def test_a_missing_column_says_null(self, load: Load) -> None:
        with pytest.raises(UserError, match=r"no column 'level'; it has .*: set prepare\.records.* to null"):
            one(load, {"q": "q", "a": 1}, columns__question="q", columns__answer="a", columns__level="level")
