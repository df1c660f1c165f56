"""The benchmark for a GPU runs, tiny, on a CPU."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'rlvr[qlora]'")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it takes minutes: run benchmarks/gpu_layer.py")
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu_layer = importlib.import_module("gpu_layer")
    runs = json.loads(gpu_layer.main(["--results", str(tmp_path)]).read_text())["runs"]
    assert len(runs) == 2 + 5 + 4
    assert all(run["milliseconds"] > 0.0 for run in runs[2:])
    assert runs[-1]["offload"] and "slowdown" in runs[-1]
