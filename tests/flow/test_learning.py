"""The default run learns, as the README says, whichever engine samples for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from support.clone import Clone


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["vllm", "native"])
def test_the_default_run_learns(sampler: str, fresh: Clone, tmp_path: Path) -> None:
    if sampler == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed: make .venv/vllm")
    clone = fresh.copy(tmp_path / "clone")
    clone.with_default_settings()
    clone.set("rollout.sampler", sampler)
    clone.repro("snakemake", seconds=1200)
    judged = clone.json("metrics/evaluate.json")
    assert judged["sft"]["mean_at_k"] < 0.4
    assert judged["grpo"]["mean_at_k"] > 0.8
    assert judged["grpo"]["accuracy"] > 0.95
    for phase in clone.json("logs/memory.json")["phases"]:
        assert phase["measured_bytes"] is None or abs(phase["error_percent"]) <= 5.0, phase
    gaps = [line["sampler/logp_gap_mean"] for line in clone.json_lines("logs/train.jsonl")]
    assert max(gap for gap in gaps if gap is not None) < 1e-5
