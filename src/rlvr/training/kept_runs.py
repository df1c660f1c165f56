"""The runs of a stage in `.checkpoints/<stage>/`, outside of every DVC output: one folder for each recipe.

A recipe is what decides a run's bits: settings, inputs, code, versions. The same recipe continues its run, and another
one begins a new run and leaves the unfinished ones where they are. A run that has finished stays until its
results are in DVC: until then they can be written again without training. One process at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.runtime.files import json_sha256
from rlvr.runtime.lock import locked
from rlvr.runtime.machine import explain
from rlvr.runtime.messages import note
from rlvr.training.run import Run, nothing
from rlvr.types import Interrupted, UserError

FOLDER = Path(".checkpoints")
RECIPE, DONE = "recipe.json", "done"
SHOWN = 4  # differences in a message
LENGTHS = {"grpo.steps", "grpo.epochs", "sft.max_steps"}  # settings

Recipe = Mapping[str, Any]  # settings (by dotted name), and hashes or versions under other names


@dataclass(frozen=True)
class KeptRun:
    """A run on the disk."""

    stage: str
    folder: Path
    recipe: Recipe

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_done(self) -> bool:
        return (self.folder / DONE).exists()

    @property
    def state(self) -> str:
        return "finished" if self.is_done else f"after step {Run(self.folder).last_step()}"

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    @property
    def changed(self) -> float:
        """When something was last written, in seconds since 1970."""
        return max(file.stat().st_mtime for file in self.folder.rglob("*"))


@contextmanager
def open_run(
    stage: str,
    recipe: Recipe,
    *,
    watch: Callable[[], None] = nothing,
    is_in_dvc: Callable[[Path], bool] = lambda _: False,
) -> Iterator[Run]:
    """Lock the stage and give the run of `recipe`: the one that was begun, or a new one.

    A finished run is given again, to write its results, unless `is_in_dvc(its log)`: then it begins again. When the
    block succeeds, the run is finished. Raises UserError if another process is training this stage.
    """
    name = json_sha256(recipe)[:12]
    (FOLDER / stage).mkdir(parents=True, exist_ok=True)
    with locked(FOLDER, stage):
        others = [run for run in kept_runs(stage) if run.name != name]
        folder = FOLDER / stage / name
        _remove_leftovers(stage)
        run = Run(folder, watch)
        if (folder / DONE).exists() and is_in_dvc(run.log):
            delete(folder)
        elif (folder / DONE).exists():
            note(f"this {stage} had finished: its results are written again, no step is trained (run {name})")
        if not folder.exists():
            _tell(stage, recipe, others)
            _make(folder, recipe)
        try:
            yield run
        except Exception as error:
            if isinstance(error, UserError | Interrupted) or (text := explain(error)) is None:
                raise
            raise UserError(f"{text}\n{run.resumes()}") from error
        (folder / DONE).touch()
        for other in others:
            if other.is_done:
                delete(other.folder)


def kept_runs(stage: str) -> list[KeptRun]:
    """The runs of a stage, the one that was changed last first."""
    runs = []
    for file in (FOLDER / stage).glob(f"*/{RECIPE}"):
        try:
            runs.append(KeptRun(stage, file.parent, json.loads(file.read_bytes())))
        except ValueError:
            continue  # damaged: nobody can tell what made it
    return sorted(runs, key=lambda run: run.changed, reverse=True)


def delete(folder: Path) -> None:
    (folder / RECIPE).unlink(missing_ok=True)  # first: half of a run is not resumed
    shutil.rmtree(folder)


def differences(recipe: Recipe, other: Recipe) -> list[str]:
    """What `recipe` changes of `other`: the settings with both values, the rest by name."""
    ours, theirs = recipe.get("settings", {}), other.get("settings", {})
    settings = [
        f"{name} is {json.dumps(ours.get(name))} and was {json.dumps(theirs.get(name))}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    return settings + [
        f"the {name} changed"
        for name in sorted({*recipe, *other} - {"settings"})
        if recipe.get(name) != other.get(name)
    ]


def _tell(stage: str, recipe: Recipe, others: list[KeptRun]) -> None:
    """Say why a run begins at its first step where another was interrupted, and how to go back, or has finished and
    was shorter or longer."""
    finished = [run for run in others if run.is_done]
    if finished and len(what := differences(recipe, finished[0].recipe)) == 1 and what[0].split()[0] in LENGTHS:
        note(
            f"this {stage} starts from its first step: {what[0]}. A finished run is not continued, since its learning "
            "rate has followed its length; to train its result further, copy it and use the copy as model.source"
        )
    unfinished = [run for run in others if not run.is_done and Run(run.folder).last_step()]
    if not unfinished:
        return
    last = unfinished[0]
    what = differences(recipe, last.recipe)
    more = f" and {len(what) - SHOWN} more" if len(what) > SHOWN else ""
    note(
        f"this {stage} starts from its first step: {'; '.join(what[:SHOWN])}{more}. The run that was interrupted "
        f"{last.state} is kept: change that back to continue it, or delete it with `rlvr runs delete {last.name}`"
    )


def _make(folder: Path, recipe: Recipe) -> None:
    folder.mkdir(parents=True)
    writing = folder / "writing"
    writing.write_text(json.dumps(recipe, indent=2, sort_keys=True), encoding="utf-8")
    writing.rename(folder / RECIPE)


def _remove_leftovers(stage: str) -> None:
    """Folders whose making or removal was cut off."""
    for folder in (FOLDER / stage).iterdir():
        if folder.is_dir() and not (folder / RECIPE).exists():
            shutil.rmtree(folder)
