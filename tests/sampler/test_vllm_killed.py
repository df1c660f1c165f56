"""kill -9 of a GRPO stage whose engine is sampling: nothing of it is left, and the next run ends in the same bits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from rlvr.stages import prepare, sft
from support.runs import records
from support.smoke import smoke_params

ROOT = Path(__file__).parents[2]
KILLED = 5  # the step, counted from 0; the checkpoint before it is that of step 4
STAGE = f"""
import os, signal, sys
from rlvr import cli
from rlvr.sampler import VllmSampler

sample = VllmSampler.sample

def dies(self, prompts, count, *, seed):
    engine, left = self.llm.llm_engine, iter(range(10))
    step = engine.step
    if seed[1] == {KILLED}:
        engine.step = lambda: step() if next(left, None) is not None else os.kill(os.getpid(), signal.SIGKILL)
    return sample(self, prompts, count, seed=seed)

if sys.argv.pop() == "dies":
    VllmSampler.sample = dies
cli.main()
"""


def run(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STAGE, "grpo", how], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def nothing_left(folder: Path) -> None:
    """No process works in the folder any more; those that end by themselves may take a moment."""
    end = time.monotonic() + 10.0
    while left := [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and works_in(entry, folder)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except OSError:  # it ended meanwhile, or is not ours
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is left")
def test_killed_while_it_samples_and_resumed_is_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    monkeypatch.chdir(whole)
    params = smoke_params().replace("log_completions_every: 4", "log_completions_every: 1")
    Path("params.yaml").write_text(params)
    Path("presets").symlink_to(ROOT / "presets")
    prepare.main()
    sft.main()
    Path("params.yaml").write_text(params.replace("sampler: native", "sampler: vllm"))
    monkeypatch.chdir(ROOT)
    shutil.copytree(whole, parts, symlinks=True)
    undisturbed = run(whole, "lives")
    assert undisturbed.returncode == 0, undisturbed.stderr
    killed = run(parts, "dies")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    nothing_left(parts)
    (log,) = parts.glob(".checkpoints/grpo/*/train.jsonl")
    assert [record["step"] for record in records(log.parent)] == list(range(KILLED))
    resumed = run(parts, "lives")
    assert resumed.returncode == 0 and "grpo 1/" not in resumed.stdout, resumed.stdout + resumed.stderr
    assert records(parts / "logs") == records(whole / "logs")
    tables = sorted(path.name for path in (whole / "logs/completions").iterdir())
    assert tables == sorted(path.name for path in (parts / "logs/completions").iterdir()) != []
    for name in tables:
        one, two = (pd.read_parquet(folder / "logs/completions" / name) for folder in (whole, parts))
        pd.testing.assert_frame_equal(one, two)
    weights = [(folder / "models/grpo/model.safetensors").read_bytes() for folder in (whole, parts)]
    assert weights[0] == weights[1]
