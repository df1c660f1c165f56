"""Every loss type on the default recipe: one run each from the same pre-finetuned model.

    python benchmarks/loss_types.py                                # all: about 15 minutes
    python benchmarks/loss_types.py --types gspo sapo
    python benchmarks/loss_types.py --steps 3                      # a look; its numbers stay in the working folder

The recipe is params.yaml as it is, with `loss_type` and what belongs to it (SETTINGS). A killed run resumes:
its folder in .checkpoints/loss_types is kept as long as code and params.yaml stay the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, get_args

from recipe import RESULTS, ROOT, line, measured, run_stages, write_params, write_result
from rlvr.stages.provenance import hash_files, write_json
from rlvr.types import LossType

WORK = ROOT / ".checkpoints/loss_types"
SETTINGS: dict[str, dict[str, float]] = {
    "cispo": {"epsilon_high": 5.0},  # an absolute cap on the ratio
    "gspo": {"epsilon": 3.0e-4, "epsilon_high": 4.0e-4},  # of the paper: ratios of whole sequences stay near 1
}
SHARED = ("data", "models/sft", ".checkpoints/evaluate")  # what does not depend on the loss type


def prepared_start(work: Path) -> Path:
    """The folder with the prepared data, the pre-finetuned model, and their evaluation."""
    folder = work / "start"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_params(folder, {})
        run_stages(folder, ("prepare", "sft", "evaluate"))
        (folder / "done").touch()
    return folder


def run(loss_type: str, work: Path, steps: int | None) -> dict[str, Any]:
    """What evaluate measured before and after GRPO with `loss_type`; the seconds of its steps, kept ones included."""
    folder, settings = work / loss_type, SETTINGS.get(loss_type, {})
    result = folder / "result.json"
    if not result.exists():
        start = prepared_start(work)
        for name in SHARED:
            shutil.copytree(start / name, folder / name, dirs_exist_ok=True)
        length = {} if steps is None else {"steps": steps}
        write_params(folder, {"grpo": {"loss_type": loss_type, "delta": None, **settings, **length}})
        is_trained = (folder / "metrics/memory.json").exists()  # the last that the stage writes
        run_stages(folder, ("evaluate",) if is_trained else ("grpo", "evaluate"))
        seconds = json.loads((folder / "metrics/train.json").read_text(encoding="utf-8"))["seconds"]
        about = {"name": loss_type, "settings": settings, "seconds": round(sum(seconds.values()), 1)}
        write_json(result, about | measured(folder))
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    print(f"{loss_type}: {line(found)}, {found['seconds']:.0f} s", flush=True)
    return found


def table(runs: list[dict[str, Any]]) -> str:
    rows = ["| loss type | mean@8 before | mean@8 after | 95 % interval | greedy before | greedy after | seconds |"]
    rows.append("|---|---|---|---|---|---|---|")
    for entry in runs:
        sft, grpo = entry["sft"], entry["grpo"]
        low, high = grpo["mean_at_k_ci95"]
        shares = [sft["mean_at_k"], grpo["mean_at_k"], f"{low:.3f} to {high:.3f}", sft["accuracy"], grpo["accuracy"]]
        cells = [share if isinstance(share, str) else f"{share:.3f}" for share in shares]
        rows.append(f"| {' | '.join([entry['name'], *cells, format(entry['seconds'], '.0f')])} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--types", nargs="+", choices=get_args(LossType), default=get_args(LossType))
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    code = hash_files(*sorted((ROOT / "src").rglob("*.py")), ROOT / "params.yaml")[:12]
    work = WORK / (code if args.steps is None else f"{code}-{args.steps}-steps")
    runs = []
    for loss_type in args.types:
        runs.append(run(loss_type, work, args.steps))
        write_result((RESULTS if args.steps is None else work) / "loss_types.json", runs)
    print(table(runs))


if __name__ == "__main__":
    main()
