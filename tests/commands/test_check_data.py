"""`rlvr check --data`: what would stop a run, or disappoint, said before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.commands import check_data
from rlvr.config import Config
from rlvr.types import UserError

Check = Callable[..., str]
CHOICES = ["A", "B", "C"]


@pytest.fixture
def check(
    make_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Check:
    """What the command prints of a table of forty rows with these answers."""
    monkeypatch.chdir(tmp_path)
    Path("data/raw").mkdir(parents=True)

    def run(answer: Callable[[int], Any], **changes: Any) -> str:
        rows = [f"Question number {i}?,{answer(i)},so it is" for i in range(40)]
        Path("data/raw/mine.csv").write_text("\n".join(["question,answer,working", *rows, ""]))
        settings = {
            "prepare.task": "records", "prepare.records.source": "data/raw/mine.csv",
            "prepare.records.columns.level": None, "prepare.train_problems": None, "prepare.sft_problems": 8,
            "prepare.dev_problems": 4, "prepare.evaluation_problems": 10, "grpo.prompts_per_step": 8,
        }  # fmt: skip
        check_data.main(make_config(settings | {key.replace("__", "."): value for key, value in changes.items()}))
        return capsys.readouterr().out

    return run


def test_the_rows_and_the_lengths_of_every_split(check: Check) -> None:
    said = check(lambda i: i)
    assert "data/raw/mine.csv: 40 problems; left out: none" in said
    rows = {words[0]: words[1] for line in said.splitlines() if (words := line.split())}
    assert {name: rows[name] for name in ("train", "sft", "dev", "evaluation")} == {
        "train": "18", "sft": "8", "dev": "4", "evaluation": "10",
    }  # fmt: skip
    assert "prompt tokens" in said and "7 to 8, mean 8" in said


def test_answers_in_words_want_another_verifier(check: Check) -> None:
    with pytest.raises(UserError, match=r"40 of 40 answers are words, such as 'Paris', .* set verifiers\.answer: text"):
        check(lambda i: "Paris")


def test_and_another_rubric(check: Check) -> None:
    said = check(lambda i: "Paris", verifiers__answer="text")
    assert "verifiers.answer text reads the answers" in said
    assert "note: rewards answer, number grade numbers, and no answer is one: use a rubric for words" in said


def test_one_bad_gold_is_named(check: Check) -> None:
    with pytest.raises(UserError, match=r"cannot use 1 of \d+ golds:\n.*mine.csv row-8: "):
        check(lambda i: "see figure" if i == 7 else i)


def test_golds_of_a_choice_that_are_numbers_are_refused(check: Check) -> None:
    with pytest.raises(UserError, match=r"verifiers\.answer choice cannot use 40 of 40 golds"):
        check(lambda i: i % 3, verifiers__answer="choice")


def test_a_missing_level_says_null(check: Check) -> None:
    with pytest.raises(UserError, match=r"has no column 'level'.*: set prepare\.records\.columns\.level to null"):
        check(lambda i: i, prepare__records__columns__level="level")


def test_too_few_rows_and_long_prompts_are_known(check: Check) -> None:
    with pytest.raises(UserError, match=r"sft_problems asks for 39 and gets 26 of 26"):
        check(lambda i: i, prepare__sft_problems=39)
    with pytest.raises(UserError, match=r"with a prompt over prepare\.max_prompt_tokens 3 \(the longest has 8\)"):
        check(lambda i: i, prepare__max_prompt_tokens=3)


def test_fewer_problems_than_prompts_in_a_step(check: Check) -> None:
    said = check(lambda i: i, grpo__prompts_per_step=32)
    assert "note: grpo.prompts_per_step 32 is lowered to 18: there are no more training problems" in said
    assert "is lowered" not in check(lambda i: i, grpo__prompts_per_step=18)


def test_so_few_problems_that_no_minibatches_can_be_made_of_them(check: Check) -> None:
    with pytest.raises(UserError, match=r"only 18 training problems, which grpo\.minibatches_per_rollout 4 does not"):
        check(lambda i: i, grpo__prompts_per_step=32, grpo__minibatches_per_rollout=4)


def test_numbers_under_a_verifier_for_words_are_noted(check: Check) -> None:
    said = check(lambda i: i, verifiers__answer="text")
    assert "note: all answers are numbers: verifiers.answer number reads them in any notation" in said


def test_decimal_commas_are_no_words(check: Check) -> None:
    with pytest.raises(UserError, match=r"the gold '\d+,5' has a decimal comma: write a point, \d+\.5"):
        check(lambda i: f'"{i},5"')
