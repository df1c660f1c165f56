"""GSM8K: gold answers, workings and levels; on the real data where the environment says that it lies."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset

from rlvr.chat import TAGS, extract_answer, extract_tagged, last_number, render_target
from rlvr.config import Config
from rlvr.tasks import TASKS, Pools
from rlvr.tasks.gsm8k import problem
from rlvr.types import Problem, UserError
from rlvr.verifiers import number

STEPS = "He sold 48/2 = <<48/2=24>>24 in May.\nTogether 48+24 = <<48+24=72>>72.\n"
Load = Callable[..., Pools]


def row(i: int, *, steps: int = 1) -> dict[str, str]:
    lines = "".join(f"Step {k} gives {i}+{k}=<<{i}+{k}={i + k}>>{i + k}.\n" for k in range(steps))
    return {"question": f"Question {i}?", "answer": f"{lines}#### {i + steps - 1:,}"}


def write(folder: Path, *, train: list[Any], test: list[Any], kind: str = "jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        if kind == "jsonl":
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        else:
            pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture
def load(make_config: Callable[..., Config], tmp_path: Path) -> Load:
    def make(changes: dict[str, Any] | None = None, *, seed: int = 0) -> Pools:
        source = {"prepare.task": "gsm8k", "prepare.gsm8k.source": str(tmp_path / "gsm8k")}
        return TASKS["gsm8k"](make_config(source | (changes or {})).prepare, seed)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "gsm8k", train=[row(i) for i in range(20)], test=[row(i) for i in range(100, 107)])


def test_a_row_becomes_a_problem() -> None:
    found = problem({"question": " How many? ", "answer": f"{STEPS}#### $1,072.00"}, "train-1", "here")
    working = "He sold 48/2 = 24 in May.\nTogether 48+24 = 72."
    assert found == Problem("train-1", "How many?", "1072", working, 2)


def test_a_solution_without_annotations_has_level_one() -> None:
    assert problem({"question": "q", "answer": "So it is 3.\n#### -3 degrees"}, "i", "here").level == 1


@pytest.mark.parametrize("answer", ["72", "so 72\n### 72", "#### ", "#### many", "#### 3 or 4", "#### 1/2"])
def test_a_row_without_gold_is_named(answer: str, tmp_path: Path, load: Load) -> None:
    write(tmp_path / "gsm8k", train=[row(1), {"question": "q", "answer": answer}], test=[row(2)])
    with pytest.raises(UserError, match=r"gsm8k train row 2: the answer must end with #### and one number, found '"):
        load()


@pytest.mark.parametrize(
    "bad", [{"question": "q"}, {"question": " ", "answer": "#### 1"}, {"question": 1, "answer": "#### 1"}]
)
def test_a_row_without_its_texts_is_named(bad: dict[str, Any], tmp_path: Path, load: Load) -> None:
    write(tmp_path / "gsm8k", train=[row(1)], test=[bad])
    with pytest.raises(UserError, match="gsm8k test row 1: needs the texts question and answer, found question"):
        load()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_each_file_makes_its_pool(kind: str, tmp_path: Path, load: Load) -> None:
    write(tmp_path / "gsm8k", train=[row(i) for i in range(20)], test=[row(1234)], kind=kind)
    pools = load()
    assert {p.id: p.answer for p in pools.training} == {f"train-{i + 1}": str(i) for i in range(20)}
    assert pools.evaluation == [Problem("test-1", "Question 1234?", "1234", "Step 0 gives 1234+0=1234.", 1)]
    assert set(pools.origin["files"]) == {str(tmp_path / f"gsm8k/{name}.{kind}") for name in ("train", "test")}


def test_the_seed_decides_the_order(folder: Path, load: Load) -> None:
    assert load() == load()
    assert load(seed=1).training != load().training
    assert [p.id for p in load().training] != [f"train-{i + 1}" for i in range(20)]


def test_longer_solutions_are_left_out_and_counted(tmp_path: Path, load: Load) -> None:
    write(tmp_path / "gsm8k", train=[row(i, steps=i) for i in range(1, 6)], test=[row(9, steps=3), row(8, steps=4)])
    pools = load({"prepare.gsm8k.max_steps": 3})
    assert sorted(p.level for p in pools.training) == [1, 2, 3]
    assert pools.evaluation is not None and [p.level for p in pools.evaluation] == [3]
    assert pools.origin["above_max_steps"] == {"train": 2, "test": 1}


def test_files_that_are_missing_or_ambiguous(tmp_path: Path, folder: Path, load: Load) -> None:
    (folder / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"gsm8k: needs test\.jsonl or test\.parquet, found neither"):
        load()
    write(folder, train=[row(1)], test=[row(2)], kind="parquet")
    with pytest.raises(UserError, match=r"needs train\.jsonl or .*found train\.jsonl, train\.parquet"):
        load()


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def load_dataset(name: str, subset: str, *, split: str, revision: str) -> Any:
            calls.append((name, subset, split, revision))
            return Dataset.from_list([row(1 if split == "train" else 2)])

        info = SimpleNamespace(sha="abc123")
        api = SimpleNamespace(dataset_info=lambda name: info)
        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
        return calls

    def test_the_revision_is_the_one_given(self, hub: list[tuple[Any, ...]], load: Load) -> None:
        pools = load({"prepare.gsm8k.source": "openai/gsm8k", "prepare.gsm8k.revision": "f00"})
        assert hub == [("openai/gsm8k", "main", "train", "f00"), ("openai/gsm8k", "main", "test", "f00")]
        assert pools.origin["revision"] == "f00" and pools.origin["warnings"] == []

    def test_without_a_revision_it_is_resolved_once_and_said(self, hub: list[tuple[Any, ...]], load: Load) -> None:
        pools = load({"prepare.gsm8k.source": "openai/gsm8k"})
        assert [call[-1] for call in hub] == ["abc123", "abc123"]
        assert pools.origin["revision"] == "abc123"
        assert pools.origin["warnings"] == [
            "prepare.gsm8k.revision is null, so the newest commit abc123 was used; write it there"
        ]

    def test_what_cannot_be_read_is_named(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise OSError("no such data set")

        monkeypatch.setattr("datasets.load_dataset", fail)
        with pytest.raises(UserError, match=r"'open/gsm' is not a file or folder, .*\n*no such data set"):
            load({"prepare.gsm8k.source": "open/gsm", "prepare.gsm8k.revision": "f00"})


@pytest.mark.skipif("RLVR_GSM8K" not in os.environ, reason="set RLVR_GSM8K to a folder with GSM8K's train and test")
class TestRealData:
    @pytest.fixture
    def rows(self) -> dict[str, str]:
        """The reference answers by problem id."""
        return {
            f"{split}-{i}": json.loads(line)["answer"]
            for split in ("train", "test")
            for i, line in enumerate((Path(os.environ["RLVR_GSM8K"]) / f"{split}.jsonl").open(encoding="utf-8"), 1)
        }

    def test_the_gold_of_every_reference_answer_is_found(self, rows: dict[str, str], load: Load) -> None:
        pools = load({"prepare.gsm8k.source": os.environ["RLVR_GSM8K"]})
        assert pools.evaluation is not None
        assert (len(pools.training), len(pools.evaluation), len(rows)) == (7473, 1319, 8792)
        for p in pools.problems():
            tail = rows[p.id].split("\n")[-1].removeprefix("#### ")
            assert number.parse(p.answer) == number.parse(tail) == Fraction(tail.replace(",", "")), p.id
            assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d*[1-9])?", p.answer), p.id
            assert (
                last_number(rows[p.id]) == tail
                and number.verify(last_number(rows[p.id]) or "", p.answer, tolerance=0.0).is_right
            ), p.id
            assert p.working and "<<" not in p.working and "####" not in p.working, p.id
            for tags in TAGS.values():
                target = render_target(p, tags)
                for answer in (extract_answer(target, tags), extract_tagged(target, tags)):
                    assert number.verify(answer or "", p.answer, tolerance=0.0).is_right, p.id
                    assert not number.verify(answer or "", f"{p.answer}1", tolerance=0.0).is_right, p.id
