"""Does the default learn, and only for the right reason? Several seeds, and two controls of seed 0.

    python benchmarks/seeds.py                 # six seeds, no steps, random reward: about 12 minutes
    python benchmarks/seeds.py --seeds 7 --no-controls

Each run takes the stages of the pipeline in a folder of its own. Controls: with 0 steps and with a reward that is
random, mean@8 must stay where the pre-finetune left it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rlvr.provenance import commit, versions

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks/results/cpu/seeds.json"
STAGES = ("prepare", "sft", "grpo", "evaluate")
RANDOM_REWARD = {"random": {"weight": 1.0, "options": {"low": 0.0, "high": 1.0}}}


def run(name: str, changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Run the stages with `changes` by section over params.yaml; what evaluate measured, and the seconds it took."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section, values in changes.items():
        if section == "rewards":
            params[section] = values
        else:
            params[section].update(values)
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "params.yaml").open("w") as file:
            yaml.dump(params, file)
        started = time.perf_counter()
        for stage in STAGES:
            environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
            subprocess.run([sys.executable, "-m", "rlvr", stage], cwd=folder, env=environment, check=True)
        seconds = time.perf_counter() - started
        measured = json.loads((Path(folder) / "metrics/evaluate.json").read_text())
    keys = ("accuracy", "mean_at_k", "mean_at_k_ci95", "format_rate", "count")
    result = {model: {key: measured[model][key] for key in keys} for model in ("sft", "grpo")}
    print(f"{name}: {line(result)}", flush=True)
    return {"name": name, "seconds": round(seconds, 1), **result}


def line(result: dict[str, Any]) -> str:
    sft, grpo = result["sft"], result["grpo"]
    greedy = f"greedy {sft['accuracy']:.3f} -> {grpo['accuracy']:.3f}"
    return f"{greedy}, mean@8 {sft['mean_at_k']:.3f} -> {grpo['mean_at_k']:.3f}"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [text for text in info.read_text().splitlines() if text.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--controls", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    runs = [run(f"seed {seed}", {"compute": {"seed": seed}}) for seed in args.seeds]
    if args.controls:
        runs.append(run("0 steps", {"grpo": {"steps": 0}}))
        runs.append(run("random reward", {"rewards": RANDOM_REWARD}))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "device": f"{processor()}, 1 thread",
        "versions": versions(),
    }
    RESULT.write_text(json.dumps(about | {"runs": runs}, indent=2) + "\n")
    print("\n".join(f"{entry['name']:>14}  {line(entry)}  {entry['seconds']:.0f} s" for entry in runs))


if __name__ == "__main__":
    main()
