"""`rlvr runs`: the training runs that are kept in .checkpoints/, and how to remove one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rlvr.config import Config
from rlvr.runtime.lock import locked
from rlvr.stages.provenance import flat
from rlvr.training.kept_runs import FOLDER, KeptRun, delete, differences, kept_runs
from rlvr.types import UserError

STAGES = ("sft", "grpo")


def show(cfg: Config) -> None:
    """Print a line for each run: what it is, its size, and what params.yaml has changed since then."""
    runs = _all()
    if not runs:
        print("no runs are kept: nothing was interrupted, and finished runs are in DVC")
        return
    now = dict(flat(cfg.model_dump()))
    for run in runs:
        settings = {name: now.get(name) for name in run.recipe.get("settings", {})}
        changed = differences({**run.recipe, "settings": settings}, run.recipe)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
        size = f"{run.num_bytes / 2**20:,.1f} MiB"
        print(
            f"{run.stage:<5} {run.name}  {run.state:<16} {size:>12}  {when}  {'; '.join(changed) or 'these settings'}"
        )


def remove(names: Sequence[str]) -> None:
    """Delete runs by name. Raises UserError for a name that no run has, and while the stage is running."""
    runs = {run.name: run for run in _all()}
    if unknown := [name for name in names if name not in runs]:
        raise UserError(f"unknown run {unknown[0]}; known: {', '.join(runs) or 'none'}")
    for name in names:
        with locked(FOLDER, runs[name].stage):
            delete(runs[name].folder)
        print(f"deleted {name}")


def _all() -> list[KeptRun]:
    return [run for stage in STAGES for run in kept_runs(stage)]
