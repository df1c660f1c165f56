"""Run stages of the pipeline with a changed recipe in their own folder: the other benchmarks use this."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from rlvr.config.presets import with_preset
from rlvr.stages.provenance import commit, versions

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/cpu"
KEYS = ("accuracy", "mean_at_k", "mean_at_k_ci95", "format_rate", "count")


def write_params(folder: Path, changes: Mapping[str, Mapping[str, Any]], *, preset: str | None = None) -> None:
    """params.yaml of the repository, or of a preset, with `changes` by section; `rewards` are replaced as a whole."""
    yaml = YAML()
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    params = yaml.load(text if preset is None else with_preset(text, preset, ROOT / "presets"))
    for section, values in changes.items():
        if section == "rewards":
            params[section] = values
        else:
            params[section].update(values)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def run_stages(folder: Path, stages: Sequence[str]) -> float:
    """Run `stages` in `folder`; the seconds they took."""
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for stage in stages:
        subprocess.run([sys.executable, "-m", "rlvr", stage], cwd=folder, env=environment, check=True)
    return time.perf_counter() - started


def measured(folder: Path) -> dict[str, Any]:
    """What evaluate measured before (sft) and after GRPO."""
    found = json.loads((folder / "metrics/evaluate.json").read_text(encoding="utf-8"))
    return {model: {key: found[model][key] for key in KEYS} for model in ("sft", "grpo")}


def line(result: Mapping[str, Any]) -> str:
    sft, grpo = result["sft"], result["grpo"]
    greedy = f"greedy {sft['accuracy']:.3f} -> {grpo['accuracy']:.3f}"
    return f"{greedy}, mean@8 {sft['mean_at_k']:.3f} -> {grpo['mean_at_k']:.3f}"


def write_result(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    about = {
        "command": " ".join(["python", *sys.argv]),
        "commit": _commit(),
        "device": f"{_processor()} ({torch.backends.cpu.get_cpu_capability()}), 1 thread",
        "versions": versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"runs": runs}, indent=2) + "\n", encoding="utf-8")


@cache
def _commit() -> str | None:
    """Before the first result is written, which edits a tracked file."""
    return commit()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [text for text in info.read_text(encoding="utf-8").splitlines() if text.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor()
