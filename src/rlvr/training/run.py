"""Checkpoints: a killed run resumes from its last checkpoint, and gives the same bits.

A run lives in `.checkpoints/<stage>/`, outside of every DVC output, until it is done: the newest checkpoint and the
logs so far. Its fingerprint covers parameters, inputs and code; another one starts a new run. One process at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rlvr.model.policy import Policy
from rlvr.training.optim import Optimizer
from rlvr.types import UserError

FOLDER = Path(".checkpoints")


@dataclass(frozen=True)
class Run:
    """An open run: `folder` holds its checkpoint and its logs."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "train.jsonl"

    @property
    def completions(self) -> Path:
        return self.folder / "completions"

    def restore(self, policy: Policy, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint; the step to resume with and what was noted then (0 and {} without one)."""
        newest = self._newest()
        step, notes = 0, {}
        if newest is not None:
            policy.load_trainable_state(load_file(newest / "weights.safetensors"))
            optimizer.load_state(torch.load(newest / "optimizer.pt", weights_only=True))
            saved = json.loads((newest / "state.json").read_text())
            step, notes = saved["step"], saved["notes"]
        self._forget_logs_from(step if newest is not None else -1)
        return step, notes

    def save(self, step: int, policy: Policy, optimizer: Optimizer, notes: dict[str, Any]) -> None:
        """Write the state before `step`, atomically, and drop older ones."""
        temporary, final = self.folder / "writing", self.folder / f"step-{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        state = {name: tensor.contiguous().cpu() for name, tensor in policy.trainable_state().items()}
        save_file(state, temporary / "weights.safetensors")
        torch.save(optimizer.state(), temporary / "optimizer.pt")
        (temporary / "state.json").write_text(json.dumps({"step": step, "notes": notes}))
        for file in [*temporary.iterdir(), *([self.log] if self.log.exists() else [])]:
            _flush(file)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _flush(self.folder)
        for old in self.folder.glob("step-*"):
            if old != final:
                shutil.rmtree(old)

    def append_log(self, record: dict[str, Any]) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _newest(self) -> Path | None:
        return max(self.folder.glob("step-*"), default=None)

    def _forget_logs_from(self, step: int) -> None:
        """Drop what was logged after the checkpoint: it will be computed again."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        kept = [line for line in lines if _step_of(line, default=step) < step]
        writing = self.log.with_suffix(".writing")
        writing.write_text("".join(f"{line}\n" for line in kept))
        writing.rename(self.log)  # a kill in between must not lose the lines before the checkpoint
        self.completions.mkdir(exist_ok=True)
        for table in self.completions.iterdir():
            if not table.stem.isdigit() or int(table.stem) >= step:
                table.unlink()


@contextmanager
def open_run(stage: str, fingerprint: str) -> Iterator[Run]:
    """Lock the stage's run folder and give the run, emptied if it was made by other parameters or inputs.

    The folder stays when the block fails or is killed, and goes when it succeeds. Raises UserError if another
    process is training there.
    """
    folder = FOLDER / stage
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{stage}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"process {lock.read().strip()} is running {stage} in this folder: wait for it or stop it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        mark = folder / "fingerprint"
        if not mark.exists() or mark.read_text() != fingerprint:
            shutil.rmtree(folder)
            folder.mkdir()
            mark.write_text(fingerprint)
        yield Run(folder)
        mark.unlink()  # first: half of a finished run is not resumed
        shutil.rmtree(folder)


def _step_of(line: str, *, default: int) -> int:
    """The step of a log line; `default` for one that was cut off in writing."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return default


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
