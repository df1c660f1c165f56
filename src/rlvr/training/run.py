"""A training run on the disk: its checkpoints and its logs. A killed run resumes and gives the same bits."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map_only

from rlvr.runtime.files import file_sha256
from rlvr.runtime.machine import explain, is_disk_full
from rlvr.runtime.messages import warn
from rlvr.training.checkpoint import Checkpoint, Damaged, State, flush, read, write
from rlvr.types import Interrupted, StepFailed, UserError

if TYPE_CHECKING:
    from pandas import DataFrame

    from rlvr.model.policy import Policy
    from rlvr.training.optim import Optimizer

AGAIN = "Fix the cause and run the same command again to continue."
KEPT = 2  # checkpoints
HELD_BYTES = 2**30


def nothing() -> None:
    pass


@dataclass(frozen=True)
class Run:
    """An open run: `folder` holds its checkpoints and its logs. `watch` is called after each checkpoint."""

    folder: Path
    watch: Callable[[], None] = nothing

    @property
    def log(self) -> Path:
        return self.folder / "train.jsonl"

    @property
    def completions(self) -> Path:
        return self.folder / "completions"

    def restore(self, policy: Policy, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint that is whole; the step to resume with and what was noted then (0 and {} without).

        A damaged one is set aside, with a warning.
        """
        for folder in sorted(self.checkpoints(), reverse=True):
            try:
                saved = read(folder)
                policy.load_trainable_state(saved.state[0])
            except (Damaged, ValueError) as damage:
                self._set_aside(folder, damage)
                continue
            optimizer.load_state(saved.state[1])
            self._forget_logs_from(saved.step)
            return saved.step, saved.notes
        self._forget_logs_from(-1)
        return 0, {}

    def save(self, step: int, policy: Policy, optimizer: Optimizer, notes: dict[str, Any]) -> None:
        """Write the state before `step`, atomically, and drop all but KEPT; nothing where that step is saved already.

        A save that fails leaves the checkpoint before it and no part of the new one. On a full disk it gives up an
        older one first.
        """
        self._save(step, state_of(policy, optimizer), notes)
        self.watch()

    def _save(self, step: int, state: State, notes: dict[str, Any]) -> None:
        if self.log.exists():
            flush(self.log)
        folder, checkpoint = self.folder / f"step-{step:08d}", Checkpoint(step, state, notes)
        try:
            write(folder, checkpoint)
        except Exception as error:
            if not is_disk_full(error) or not self._drop_older_than(1):
                raise
            write(folder, checkpoint)
        self._drop_older_than(KEPT)

    def _drop_older_than(self, count: int) -> bool:
        """Remove all but the newest `count` checkpoints; whether there were any."""
        older = sorted(self.checkpoints())[:-count]
        for folder in older:
            shutil.rmtree(folder)
        return bool(older)

    @contextmanager
    def training(
        self, step: int, policy: Policy, optimizer: Optimizer, notes: dict[str, Any], *, updates: int = 1
    ) -> Iterator[None]:
        """A block that is one step, of so many `updates`. Where it fails, the state before it is saved.

        With more than one update a copy of that state is held meanwhile, up to HELD_BYTES. Where there is none and a
        weight has moved, the last checkpoint is what remains. Raises StepFailed for what the user can fix, memory and
        disk of the machine included, and says what is kept.
        """
        before, held = optimizer.moves, held_state(policy, optimizer) if updates > 1 else None
        try:
            yield
        except Interrupted:
            raise
        except Exception as failure:
            state = state_of(policy, optimizer) if optimizer.moves == before else held
            resumption = self.resumes() if state is None else self._keep(step, state, notes)
            text = str(failure) if isinstance(failure, UserError) else explain(failure)
            if text is None:
                failure.add_note(resumption)
                raise
            kind = type(failure) if isinstance(failure, StepFailed) else StepFailed
            raise kind(f"step {step + 1}: {text}\n{resumption}") from failure

    def _keep(self, step: int, state: State, notes: dict[str, Any]) -> str:
        try:
            self._save(step, state, notes)
        except Exception as error:  # what stopped the step may stop this, too, and matters more
            return f"The state before this step cannot be saved ({error}). {self.resumes()}"
        return f"This step was not trained on; the state before it is saved. {AGAIN}"

    def resumes(self) -> str:
        """Where the next run begins, for a message."""
        step = self.last_step()
        where = f"its last checkpoint, after step {step}" if step else "its first step: there is no checkpoint yet"
        return f"The run will resume from {where}. {AGAIN}"

    def append_log(self, record: dict[str, Any]) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_completions(self, step: int, table: DataFrame) -> dict[str, str]:
        """Write the table of `step`; its name with its SHA-256, for the notes of the next checkpoint."""
        data = table.to_parquet(None)
        file = self.completions / f"{step:08d}.parquet"
        file.write_bytes(data)
        flush(file)
        flush(self.completions)
        return {file.name: hashlib.sha256(data).hexdigest()}

    def checkpoints(self) -> list[Path]:
        return list(self.folder.glob("step-*"))

    def last_step(self) -> int:
        """The steps that the newest checkpoint has; 0 without one."""
        newest = max(self.checkpoints(), default=None)
        return 0 if newest is None else int(newest.name.removeprefix("step-"))

    def _set_aside(self, folder: Path, damage: Exception) -> None:
        aside = folder.with_name(f"broken-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        warn(f"{damage}: this checkpoint is damaged and set aside as {aside}; {self._instead()}")

    def _instead(self) -> str:
        step = self.last_step()
        return (
            f"the one after step {step} is used" if step else "there is no other, so the run begins at its first step"
        )

    def _forget_logs_from(self, step: int) -> None:
        """Drop what was logged after the checkpoint: it will be computed again."""
        lines = self.log.read_bytes().decode(errors="replace").splitlines() if self.log.exists() else []
        earlier = [line for line in lines if _step_of(line, default=step) < step]
        writing = self.log.with_suffix(".writing")
        writing.write_text("".join(f"{line}\n" for line in earlier), encoding="utf-8")
        writing.rename(self.log)  # a kill in between must not lose the lines before the checkpoint
        self.completions.mkdir(exist_ok=True)
        for table in self.completions.iterdir():
            if not table.stem.isdigit() or int(table.stem) >= step:
                _remove(table)


def check_log(run: Run, steps: int) -> None:
    """Warn where the log does not hold the first `steps` steps, each once."""
    steps_logged = [_step_of(line, default=-1) for line in run.log.read_text(encoding="utf-8").splitlines()]
    if steps_logged != list(range(steps)):
        warn(
            f"{run.log} is damaged: it holds {len(set(steps_logged))} of the {steps} steps before the checkpoint. The "
            "weights are whole; the curves of the report will not be"
        )


def check_completions(run: Run, written: Mapping[str, str]) -> None:
    """Compare the tables of completions with those that were `written` (SHA-256 by name).

    A damaged one and one that nobody wrote are removed. Each of them, and each that is missing, is a warning.
    """
    for name, digest in written.items():
        table = run.completions / name
        try:
            is_whole = file_sha256(table) == digest
        except FileNotFoundError:
            warn(f"{table} is missing: the report will lack these completions")
            continue
        except OSError:
            is_whole = False
        if not is_whole:
            _remove(table)
            warn(f"{table} is damaged and removed: the report will lack these completions")
    for table in sorted(run.completions.glob("*.parquet")):
        if table.name not in written:
            _remove(table)
            warn(f"{table} was not written by this run and is removed")


def _remove(path: Path) -> None:
    """A file or a folder; what the disk does not let go stays."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def state_of(policy: Policy, optimizer: Optimizer) -> State:
    return policy.trainable_state(), optimizer.state()


def held_state(policy: Policy, optimizer: Optimizer) -> State | None:
    """A copy in the host's memory of the state as it is now; None where it is larger than HELD_BYTES."""
    state = state_of(policy, optimizer)
    if sum(leaf.nbytes for leaf in tree_iter(state) if isinstance(leaf, Tensor)) > HELD_BYTES:
        return None
    copies: State = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)
    return copies


def _step_of(line: str, *, default: int) -> int:
    """The step of a log line; `default` for one that was cut off in writing or damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return default
