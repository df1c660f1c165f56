"""Does the default learn, and only for the right reason? Several seeds, and two controls of seed 0.

    python benchmarks/seeds.py                 # six seeds, no steps, random reward: about 30 minutes
    python benchmarks/seeds.py --seeds 7 --no-controls

Each run takes the stages of the pipeline in its own folder. Controls: with 0 steps mean@8 stays where the pre-finetune
left it, and with a reward that is random it must not rise.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from recipe import RESULTS, line, measured, run_stages, write_params, write_result

STAGES = ("prepare", "sft", "grpo", "evaluate")
RANDOM_REWARD = {"random": {"weight": 1.0, "options": {"low": 0.0, "high": 1.0}}}


def run(name: str, changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Run the stages with `changes` by section over params.yaml; what evaluate measured, and the seconds it took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_params(folder, changes)
        seconds = run_stages(folder, STAGES)
        result = measured(folder)
    print(f"{name}: {line(result)}", flush=True)
    return {"name": name, "seconds": round(seconds, 1), **result}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--controls", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    runs = [run(f"seed {seed}", {"compute": {"seed": seed}}) for seed in args.seeds]
    if args.controls:
        runs.append(run("0 steps", {"grpo": {"steps": 0}}))
        runs.append(run("random reward", {"rewards": RANDOM_REWARD}))
    write_result(RESULTS / "seeds.json", runs)
    print("\n".join(f"{entry['name']:>14}  {line(entry)}  {entry['seconds']:.0f} s" for entry in runs))


if __name__ == "__main__":
    main()
