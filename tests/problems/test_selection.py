"""Splits out of pools: their sizes, what does not fit, and no question twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlvr.problems.selection import Split, TokenLimits, select, set_aside, shortened
from rlvr.tasks import Pools
from rlvr.types import Problem, UserError

WANTED: dict[str, int | None] = {"train": 4, "sft": 3, "dev": 2, "evaluation": 2}
ROOM = TokenLimits(prompt_tokens=100, completion_tokens=100, truncate=False)


def problem(name: str, *, words: int = 3, working: str = "because") -> Problem:
    """A question of that many words."""
    return Problem(name, " ".join(["well"] * (words - 1) + [f"{name}?"]), "1", working, 1)


def problems(*names: str) -> list[Problem]:
    return [problem(name) for name in names]


def numbered(start: int, stop: int) -> list[Problem]:
    return problems(*map(str, range(start, stop)))


def words(problem: Problem) -> dict[str, Any]:
    """A word is a token; the template adds one."""
    return {
        "prompt_tokens": ["user", *problem.question.split()],
        "target": problem.working,
        "target_tokens": problem.working.split(),
    }


def ids(splits: dict[str, Split]) -> dict[str, list[str]]:
    return {name: [p.id for p, _ in split.rows] for name, split in splits.items()}


def left_out(splits: dict[str, Split]) -> dict[str, dict[str, int]]:
    return {name: dict(split.left_out) for name, split in splits.items() if split.left_out}


def test_one_pool_is_dealt_from_the_front() -> None:
    splits = select(Pools(numbered(0, 20), None, {}), WANTED, words, ROOM)
    assert ids(splits) == {
        "train": ["7", "8", "9", "10"],
        "sft": ["4", "5", "6"],
        "dev": ["2", "3"],
        "evaluation": ["0", "1"],
    }
    assert list(splits) == list(WANTED)
    assert left_out(splits) == {}
    assert all(columns == words(p) for split in splits.values() for p, columns in split.rows)


def test_a_held_out_pool_is_for_evaluation_alone() -> None:
    splits = select(Pools(numbered(0, 20), numbered(50, 60), {}), WANTED, words, ROOM)
    assert ids(splits)["evaluation"] == ["50", "51"]
    assert ids(splits)["dev"] == ["0", "1"]


def test_null_takes_all_that_are_left() -> None:
    splits = select(Pools(numbered(0, 20), None, {}), WANTED | {"train": None}, words, ROOM)
    assert ids(splits)["train"] == [str(i) for i in range(7, 20)]


def test_a_split_that_is_not_wanted_takes_nothing() -> None:
    splits = select(Pools(numbered(0, 20), None, {}), {"train": 2, "evaluation": 2}, words, ROOM)
    assert ids(splits) == {"train": ["2", "3"], "evaluation": ["0", "1"]}


def test_repeated_questions_are_left_out_counted_and_replaced() -> None:
    evaluation = [problem("e"), problem("E"), problem("f"), problem("g")]
    training = [*problems("a", "f", "b", "b", "c"), *numbered(0, 9)]
    splits = select(Pools(training, evaluation, {}), WANTED, words, ROOM)
    assert ids(splits) == {
        "train": ["2", "3", "4", "5"],
        "sft": ["c", "0", "1"],
        "dev": ["a", "b"],
        "evaluation": ["e", "f"],
    }
    assert left_out(splits) == {
        "sft": {"that repeat a question of dev": 1},
        "dev": {"that repeat a question of evaluation": 1},
        "evaluation": {"that repeat a question of evaluation": 1},
    }


def test_long_prompts_are_left_out_counted_and_replaced() -> None:
    limits = TokenLimits(prompt_tokens=4, completion_tokens=100, truncate=False)
    training = [problem("x", words=4), *numbered(0, 5), problem("y", words=9), problem("z", words=5), *numbered(5, 12)]
    splits = select(Pools(training, None, {}), WANTED, words, limits)
    assert ids(splits) == {
        "train": ["7", "8", "9", "10"],
        "sft": ["4", "5", "6"],
        "dev": ["2", "3"],
        "evaluation": ["0", "1"],
    }
    reason = "with a prompt over prepare.max_prompt_tokens 4"
    assert left_out(splits) == {"evaluation": {reason: 1}, "sft": {reason: 2}}
    assert splits["sft"].reasons() == f"2 {reason} (the longest has 10)"


def test_cut_questions_keep_their_end_and_are_counted() -> None:
    limits = TokenLimits(prompt_tokens=4, completion_tokens=100, truncate=True)
    training = [problem("x", words=4), *numbered(0, 3), problem("y", words=9), *numbered(3, 20)]
    splits = select(Pools(training, None, {}), WANTED, words, limits)
    assert ids(splits)["evaluation"] == ["x", "0"]
    assert [p.question for p, _ in splits["evaluation"].rows] == ["well well x?", "well well 0?"]
    assert {name: split.truncated for name, split in splits.items()} == {
        "train": 0,
        "sft": 1,
        "dev": 0,
        "evaluation": 1,
    }
    assert left_out(splits) == {}
    assert all(len(columns["prompt_tokens"]) <= 4 for split in splits.values() for _, columns in split.rows)


def test_questions_that_are_the_same_once_cut_are_repeated() -> None:
    limits = TokenLimits(prompt_tokens=4, completion_tokens=100, truncate=True)
    twins = [Problem(name, f"{name} says well well x?", "1", "because", 1) for name in "ab"]
    splits = select(Pools([twins[0], *numbered(0, 12), twins[1]], None, {}), WANTED | {"train": None}, words, limits)
    assert left_out(splits) == {"train": {"that repeat a question of evaluation": 1}}


@pytest.mark.parametrize("limit", range(2, 9))
def test_a_question_is_cut_no_more_than_needed(limit: int) -> None:
    cut = shortened(problem("x", words=8), words, limit)
    assert cut is not None
    assert cut[0] == problem("x", words=limit - 1)
    assert cut[1] == words(cut[0])


def test_a_limit_that_not_one_word_meets() -> None:
    assert shortened(problem("x"), words, 1) is None
    limits = TokenLimits(prompt_tokens=1, completion_tokens=100, truncate=True)
    with pytest.raises(UserError, match=r"evaluation_problems asks for 2 and gets 0 of 9 .*: 9 with a prompt over"):
        select(Pools(numbered(0, 9), None, {}), WANTED, words, limits)


def test_text_without_spaces_keeps_its_end_too() -> None:
    def characters(problem: Problem) -> dict[str, Any]:
        return words(problem) | {"prompt_tokens": list(problem.question)}

    long = Problem("x", "小明有三个苹果" * 40 + "还剩几个", "1", "because", 1)
    cut = shortened(long, characters, 20)
    assert cut is not None and cut[0].question == long.question[-20:]


def test_the_same_question_after_other_turns_is_another_question() -> None:
    rows = [replace(problem("x"), id=turn, context=({"role": "user", "content": turn},)) for turn in "abcab"]
    system = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "c"})
    splits = select(Pools([*rows, replace(rows[0], context=system)], None, {}), {"train": 3}, words, ROOM)
    assert ids(splits)["train"] == ["a", "b", "c"]
    with pytest.raises(UserError, match="3 that repeat a question of train"):
        select(Pools([*rows, replace(rows[0], context=system)], None, {}), {"train": 4}, words, ROOM)


def test_a_worked_solution_whose_target_cannot_be_read_back_is_counted() -> None:
    def unreadable(problem: Problem) -> dict[str, Any]:
        return words(problem) | ({"target": "", "target_tokens": []} if problem.id == "2" else {})

    splits = select(Pools(numbered(0, 9), None, {}), {"sft": 3, "evaluation": 2}, unreadable, ROOM)
    assert ids(splits)["sft"] == ["3", "4", "5"]
    assert left_out(splits) == {"sft": {"whose worked solution holds a tag": 1}}


def test_sft_takes_only_worked_solutions_that_fit_and_train_the_others() -> None:
    limits = TokenLimits(prompt_tokens=100, completion_tokens=2, truncate=False)
    bare, long = problem("bare", working=""), problem("long", working="so it is")
    training = [
        bare,
        long,
        *numbered(0, 2),
        bare_two := problem("two", working=""),
        long_two := problem("l", working="a b c d"),
    ]
    splits = select(Pools([*training, *numbered(2, 9)], None, {}), WANTED | {"train": None}, words, limits)
    assert ids(splits)["evaluation"] == ["bare", "long"], "these are not trained on"
    assert ids(splits)["sft"] == ["2", "3", "4"]
    assert ids(splits)["train"] == [bare_two.id, long_two.id, "5", "6", "7", "8"]
    assert left_out(splits) == {
        "sft": {
            "without a worked solution": 1,
            "with a worked solution over rollout.max_completion_tokens 2": 1,
        }
    }
    assert "max_completion_tokens 2 (the longest has 4)" in splits["sft"].reasons()


def test_no_worked_solution_at_all_says_what_to_do() -> None:
    bare = [problem(str(i), working="") for i in range(20)]
    with pytest.raises(UserError) as caught:
        select(Pools(bare, None, {}), WANTED, words, ROOM)
    assert "prepare.sft_problems asks for 3 and gets 0 of 16 problems; left out: 16 without a worked" in str(
        caught.value
    )
    assert "Ask for fewer in this or another split (or 0, with sft.enabled: false)" in str(caught.value)


@pytest.mark.parametrize("missing", [1, 4])
def test_too_few_are_refused_with_the_numbers(missing: int) -> None:
    with pytest.raises(
        UserError, match=rf"prepare\.train_problems asks for 4 and gets {4 - missing} of {4 - missing} "
    ):
        select(Pools(numbered(0, 11 - missing), None, {}), WANTED, words, ROOM)
    with pytest.raises(
        UserError, match=r"sft_problems asks for 3 and gets 1 of 2 .*: 1 that repeat a question of evaluation"
    ):
        select(Pools(problems("a", "b", "e", "c"), problems("e", "f"), {}), WANTED, words, ROOM)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(UserError, match=r"train_problems asks for all that are left and gets 0 of 0 problems"):
        select(Pools(numbered(0, 7), None, {}), WANTED | {"train": None}, words, ROOM)


class TestExamples:
    def test_they_come_from_the_front_and_are_in_no_pool(self) -> None:
        bare = problem("bare", working="")
        examples, pools = set_aside(Pools([bare, *numbered(0, 5)], None, {}), 2)
        assert [p.id for p in examples] == ["0", "1"]
        assert [p.id for p in pools.training] == ["bare", "2", "3", "4"]

    def test_none_is_asked_of_evaluation(self) -> None:
        examples, pools = set_aside(Pools(numbered(0, 5), [problem("0"), problem("9")], {}), 1)
        assert [p.id for p in examples] == ["1"]
        assert [p.id for p in pools.evaluation or []] == ["0", "9"]

    def test_their_questions_are_asked_nowhere(self) -> None:
        examples, pools = set_aside(Pools([problem("a"), problem("A"), *numbered(0, 20)], None, {}), 1)
        splits = select(pools, WANTED, words, ROOM, examples)
        assert ids(splits)["evaluation"] == ["0", "1"]
        assert left_out(splits) == {"evaluation": {"that repeat a question of the examples of few_shot": 1}}

    def test_none_change_nothing(self) -> None:
        pools = Pools(numbered(0, 5), None, {})
        assert set_aside(pools, 0) == ([], pools)

    def test_too_few_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"few_shot asks for 3 worked examples, but only 2 of 3 problems have"):
            set_aside(Pools([*numbered(0, 2), problem("bare", working="")], None, {}), 3)
