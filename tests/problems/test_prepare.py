"""Prepared data: tables, prompts, card, and the same bytes twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tokenizers.normalizers import Lowercase
from transformers import AutoTokenizer

from rlvr.chat import CHAT_TEMPLATE, TAGS
from rlvr.config import Config
from rlvr.problems import tables
from rlvr.problems.prepare import prepare
from rlvr.tasks.arithmetic import working
from rlvr.types import UserError

COUNTS = {"train": 30, "sft": 12, "dev": 7, "evaluation": 9}
SMALL = {f"prepare.{name}_problems": count for name, count in COUNTS.items()}
SYSTEM = "You add numbers."


@pytest.fixture
def make(make_config: Callable[..., Config], tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    def run(changes: dict[str, Any] | None = None, *, name: str = "data") -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / name
        folder.mkdir()
        return folder, prepare(make_config(SMALL | (changes or {})), folder, folder / "base")

    return run


Make = Callable[..., tuple[Path, dict[str, Any]]]


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_runs_write_the_same_bytes(make: Make) -> None:
    (one, card), (two, again) = make(name="one"), make(name="two")
    assert contents(one) == contents(two)
    assert card == again
    assert {f"{name}.parquet" for name in COUNTS} | {"base/model.safetensors"} <= contents(one).keys()


def test_another_seed_gives_other_problems_and_weights(make: Make) -> None:
    (one, _), (two, _) = make(name="one"), make({"compute.seed": 1}, name="two")
    changed = {name for name, digest in contents(one).items() if contents(two)[name] != digest}
    assert changed >= {f"{name}.parquet" for name in COUNTS} | {"base/model.safetensors"}
    assert "base/tokenizer.json" not in changed


def test_the_card_says_what_the_tables_hold(make: Make) -> None:
    folder, card = make({"prepare.arithmetic.min_level": 1, "prepare.arithmetic.max_level": 2})
    assert card["splits"].keys() == COUNTS.keys()
    for name, split in card["splits"].items():
        table = pd.read_parquet(folder / f"{name}.parquet")
        assert split["count"] == len(table) == COUNTS[name]
        assert split["levels"] == {str(level): count for level, count in table["level"].value_counts().items()}
        assert split["sha256"] == contents(folder)[f"{name}.parquet"]
        for column in ("prompt_tokens", "target_tokens"):
            lengths = table[column].map(len)
            assert split[column] == {"min": lengths.min(), "mean": pytest.approx(lengths.mean()), "max": lengths.max()}
        assert split["examples"] == table[["prompt", "target"]].head(3).to_dict("records")
    assert card["vocabulary"] == len(AutoTokenizer.from_pretrained(folder / "base"))
    assert card["chat_template"] == CHAT_TEMPLATE


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("system_prompt", [None, SYSTEM])
@pytest.mark.parametrize("open_in_prompt", [False, True])
def test_prompts_and_targets_follow_the_template(
    tags: str, system_prompt: str | None, open_in_prompt: bool, make: Make
) -> None:
    template = {
        "model.template.tags": tags,
        "model.template.system_prompt": system_prompt,
        "model.template.open_in_prompt": open_in_prompt,
    }
    folder, _ = make(template)
    start, end, answer_start, answer_end = (getattr(TAGS[tags], name) for name in TAGS[tags].__dataclass_fields__)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    for row in pd.read_parquet(folder / "sft.parquet").to_dict("records"):
        system = f"<|system|>{system_prompt}" if system_prompt else ""
        head = f"{system}<|user|>{row['question']}<|assistant|>"
        answer = f"{row['working']}{end}{answer_start}{row['answer']}{answer_end}"
        assert (row["prompt"], row["target"]) == ((head + start, answer) if open_in_prompt else (head, start + answer))
        assert tokenizer.decode(row["prompt_tokens"]) == row["prompt"]
        assert tokenizer.decode(row["target_tokens"][:-1]) == row["target"]
        assert row["target_tokens"][-1] == tokenizer.eos_token_id
        assert [m["content"] for m in row["messages"]] == [*([SYSTEM] if system_prompt else []), row["question"]]


def test_own_tags(make: Make) -> None:
    tags = {"reasoning_start": "[[", "reasoning_end": "]]", "answer_start": "Answer: ", "answer_end": " ###"}
    _, card = make({"model.template.tags": tags})
    example = card["splits"]["train"]["examples"][0]
    assert example["target"].startswith("[[") and "]]Answer: " in example["target"]
    assert example["target"].endswith(" ###")


@pytest.mark.parametrize("open_in_prompt", [False, True])
def test_worked_examples_are_earlier_turns(open_in_prompt: bool, make: Make) -> None:
    template = {"model.template.open_in_prompt": open_in_prompt, "model.template.system_prompt": SYSTEM}
    changes = {"prepare.few_shot": 2, "prepare.max_prompt_tokens": 90, "prepare.sft_problems": 0, "sft.enabled": False}
    folder, card = make(template | changes)
    assert len(card["few_shot"]) == 2
    turns = ""
    for question in card["few_shot"]:
        a, b = map(int, question.split("+"))
        solved = f"<start_working_out>{working(a, b)}<end_working_out><SOLUTION>{a + b}</SOLUTION>"
        turns += f"<|user|>What is {question}?<|assistant|>{solved}<|end|>"
    for name in card["splits"]:
        for row in pd.read_parquet(folder / f"{name}.parquet").to_dict("records"):
            start = "<start_working_out>" * open_in_prompt
            assert row["prompt"] == f"<|system|>{SYSTEM}{turns}<|user|>{row['question']}<|assistant|>{start}"
            assert row["id"] not in card["few_shot"]
            assert [m["role"] for m in row["messages"]] == ["system", *["user", "assistant"] * 2, "user"]
            assert 11 + 2 * 30 < len(row["prompt_tokens"]) <= 90


def test_worked_examples_count_into_the_length_of_the_prompt(make: Make) -> None:
    with pytest.raises(UserError, match=r"with a prompt over prepare\.max_prompt_tokens 40 \(the longest has 4\d\)"):
        make({"prepare.few_shot": 1, "prepare.max_prompt_tokens": 40})


def test_a_template_that_drops_earlier_reasoning_is_refused_with_examples(make: Make, tmp_path: Path) -> None:
    folder, _ = make(name="scratch")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "{{ message['content'] }}", "{{ message['content'].split('<end_working_out>')[-1] }}"
    )
    tokenizer.save_pretrained(tmp_path / "forgetful")
    for name in ("model.safetensors", "config.json"):
        shutil.copy(folder / "base" / name, tmp_path / "forgetful")
    source = {"model.source": str(tmp_path / "forgetful"), "prepare.max_prompt_tokens": 90}
    make(source, name="without")
    with pytest.raises(UserError, match=r"prepare\.few_shot 1: the model's chat template rewrites earlier answers"):
        make(source | {"prepare.few_shot": 1}, name="with")


def test_later_stages_read_what_was_written(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = make()
    monkeypatch.setattr(tables, "FOLDER", folder)
    table = pd.read_parquet(folder / "dev.parquet")
    prompts = tables.read_prompts("dev")
    assert [p.problem.question for p in prompts] == table["question"].tolist()
    assert [p.problem.answer for p in prompts] == table["answer"].tolist()
    assert [list(p.tokens) for p in prompts] == [list(tokens) for tokens in table["prompt_tokens"]]
    assert {type(token) for p in prompts for token in p.tokens} == {int}
    examples = tables.read_examples("dev")
    assert [(list(prompt), target.tolist()) for prompt, target in examples] == [
        (list(prompt), list(target))
        for prompt, target in zip(table["prompt_tokens"], table["target_tokens"], strict=True)
    ]


def test_prompts_that_are_all_too_long_are_refused_with_the_remedy(make: Make) -> None:
    with pytest.raises(
        UserError, match=r"left out: 58 with a prompt over .*max_prompt_tokens 10 \(the longest has 11\)"
    ):
        make({"prepare.max_prompt_tokens": 10})


def test_prompts_that_are_too_long_are_left_out_replaced_and_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "test"):
        questions = [f"{name} {'again and ' * 3 * (i % 2)}{i}?" for i in range(200)]
        rows = [{"question": question, "answer": "1+1=<<1+1=2>>2\n#### 2"} for question in questions]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"prepare.task": "gsm8k", "prepare.gsm8k.source": str(tmp_path), "prepare.max_prompt_tokens": 8}
    folder, card = make(source)
    printed = capsys.readouterr().out
    for name, split in card["splits"].items():
        assert split["count"] == COUNTS[name] and split["prompt_tokens"]["max"] <= 8
        assert not pd.read_parquet(folder / f"{name}.parquet")["question"].str.contains("again").any()
        (reason,) = split["left_out"]
        assert f"{name}: 0 questions cut; left out: {split['left_out'][reason]} {reason}" in printed
    assert card["origin"]["source"] == str(tmp_path)


def test_questions_are_cut_from_their_start(make: Make) -> None:
    folder, card = make({"prepare.max_prompt_tokens": 10, "prepare.long_prompts": "truncate"})
    table = pd.read_parquet(folder / "train.parquet")
    assert table["question"].str.fullmatch(r"is \d\d\+\d\d\?").all()
    assert (table["prompt"] == "<|user|>" + table["question"] + "<|assistant|>").all()
    assert card["splits"]["train"]["truncated"] == len(table) == COUNTS["train"]


def test_worked_examples_that_no_completion_could_hold_are_refused(make: Make) -> None:
    with pytest.raises(
        UserError, match=r"sft_problems .* over rollout\.max_completion_tokens 12 \(the longest has 25\)"
    ):
        make({"rollout.max_completion_tokens": 12})


def test_a_split_of_none_has_no_table(make: Make) -> None:
    folder, card = make({"prepare.sft_problems": 0, "prepare.dev_problems": 0, "sft.enabled": False})
    assert {path.stem for path in folder.glob("*.parquet")} == card["splits"].keys() == {"train", "evaluation"}


def test_a_model_that_is_not_there_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"model\.source '.*empty' has no \*\.safetensors file"):
        make({"model.source": str(tmp_path / "empty")})


class TestOtherModels:
    def test_their_tokenizer_is_kept_and_a_template_added_where_there_is_none(self, make: Make, tmp_path: Path) -> None:
        folder, _ = make(name="scratch")
        tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        for name, template, expected in (
            ("bare", None, "<|user|>What"),
            ("own", "{% for m in messages %}Q: {{ m['content'] }}{% endfor %} A:", "Q: What"),
        ):
            tokenizer.chat_template = template
            tokenizer.save_pretrained(tmp_path / name)
            for file in ("model.safetensors", "config.json"):
                shutil.copy(folder / "base" / file, tmp_path / name)
            found, card = make({"model.source": str(tmp_path / name)}, name=f"data-{name}")
            assert card["splits"]["train"]["examples"][0]["prompt"].startswith(expected)
            assert not (found / "base" / "model.safetensors").exists()


class TestModelsThatCannotTakeTheData:
    @pytest.fixture
    def model(self, make: Make, tmp_path: Path) -> Path:
        """A model of one's own, which the next prepare would take."""
        folder, _ = make(name="scratch")
        shutil.copytree(folder / "base", tmp_path / "mine")
        return tmp_path / "mine"

    def test_one_that_reads_fewer_tokens_than_the_longest_prompt_and_completion(self, make: Make, model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 50}))
        with pytest.raises(UserError, match=r"reads at most 50 in total .*: lower rollout\.max_completion_tokens"):
            make({"model.source": str(model)})

    def test_one_without_an_embedding_for_a_token_of_the_prompt(self, make: Make, model: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|short|>"]})
        tokenizer.save_pretrained(model)
        make({"model.source": str(model)}, name="unused")
        with pytest.raises(UserError, match=r"token '<\|short\|>' has the id"):
            make({"model.source": str(model), "model.template.system_prompt": "Be <|short|>"})

    def test_one_whose_tokenizer_cannot_write_the_tags(self, make: Make, model: Path) -> None:
        """... is refused without a pre-finetune, too: no answer could ever be found."""
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.backend_tokenizer.normalizer = Lowercase()
        tokenizer.save_pretrained(model)
        without = {"sft.enabled": False, "prepare.sft_problems": 0, "prepare.dev_problems": 0}
        with pytest.raises(UserError, match=r"does not give this text back: .*change model\.template\.tags"):
            make(without | {"model.source": str(model), "model.template.tags": "working_out"})
