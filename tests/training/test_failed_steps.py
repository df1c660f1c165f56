"""A step that fails leaves a checkpoint, says what to do, and the next run ends with the bits of an undisturbed one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr import grpo
from rlvr.chat import tags_of
from rlvr.model.policy import Policy
from rlvr.rewards import open_scorer
from rlvr.rewards.functions import FUNCTIONS
from rlvr.rewards.sample import Sample
from rlvr.runtime.meter import Meter
from rlvr.training.kept_runs import open_run
from rlvr.training.run import Run
from rlvr.types import Group, Interrupted, Prompt, StepFailed, UserError
from support.precision import assert_same_bits

STEPS, FAILS_AT = 6, 3
CHANGES = {"grpo.steps": STEPS, "grpo.checkpoint_every": 2}


class Failing:
    """The sampler of a toy, which raises in one step before it samples."""

    def __init__(self, sampler: Any, error: Exception) -> None:
        self.sampler, self.error = sampler, error
        self.resume, self.release, self.sync = sampler.resume, sampler.release, sampler.sync

    def sample(self, prompts: Sequence[Prompt], count: int, *, seed: tuple[int, ...]) -> Iterator[Group]:
        if seed[1] == FAILS_AT:
            raise self.error
        yield from self.sampler.sample(prompts, count, seed=seed)


@pytest.fixture
def prompts(make_prompts: Callable[..., list[Prompt]]) -> list[Prompt]:
    return make_prompts(4, 9, 5, 7, 3, 6, 8, 4)


def nothing(done: int, **values: float | None) -> None:
    pass


def train(toy: Any, prompts: Sequence[Prompt], folder: Path, *, sampler: Any = None, show: Any = nothing) -> Any:
    folder.mkdir(exist_ok=True)
    with open_scorer(toy.cfg.rewards, toy.cfg.verifiers, tags_of(toy.cfg.model.template)) as scorer:
        grpo.train(
            toy.cfg, toy.resolved, toy.policy, sampler or toy.sampler, scorer, prompts,
            run=Run(folder), meter=Meter(torch.device("cpu")), show=show, stop=lambda: False,
        )  # fmt: skip
    return toy


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*"))


@pytest.mark.parametrize(
    "error, said",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory.tokens_per_micro_batch"),
        (UserError("user/my.py:score asks for a column that is missing"), "asks for a column"),
    ],
)
def test_before_anything_moved_the_state_before_the_step_is_saved(
    error: Exception, said: str, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    toy, whole = make_toy(CHANGES), train(make_toy(CHANGES), prompts, tmp_path / "whole")
    with pytest.raises(StepFailed, match=rf"step {FAILS_AT + 1}: (?s:.*){said}(?s:.*)the state before it is saved"):
        train(toy, prompts, tmp_path / "parts", sampler=Failing(toy.sampler, error))
    assert checkpoints(tmp_path / "parts")[-1] == f"step-{FAILS_AT:08d}"
    assert_same_bits(whole.policy.trainable(), train(make_toy(CHANGES), prompts, tmp_path / "parts").policy.trainable())


def test_a_fault_of_the_program_is_not_hidden_and_loses_no_step(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    toy = make_toy(CHANGES)
    with pytest.raises(ZeroDivisionError) as caught:
        train(toy, prompts, tmp_path / "run", sampler=Failing(toy.sampler, ZeroDivisionError()))
    assert "the state before it is saved" in caught.value.__notes__[0]
    assert checkpoints(tmp_path / "run")[-1] == f"step-{FAILS_AT:08d}"


def spoil(policy: Policy, *, after: int) -> None:
    """Gradients without a number from the pass number `after` on."""
    passes = [0]

    def hook(gradient: Tensor) -> Tensor:
        passes[0] += 1
        return gradient * float("nan") if passes[0] > after else gradient

    next(iter(policy.trainable().values())).register_hook(hook)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("passes, update", [(1, 3), (2, 6), (2, 7)], ids=["alone", "first of two", "second of two"])
def test_a_gradient_that_is_no_number(
    passes: int, update: int, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    """The state before the step is saved, also where the step's first update has moved the weights."""
    changes = CHANGES | {"grpo.passes_per_rollout": passes, "memory.tokens_per_micro_batch": 10_000}
    whole, toy = train(make_toy(changes), prompts, tmp_path / "whole"), make_toy(changes)
    spoil(toy.policy, after=update)
    with pytest.raises(StepFailed, match=r"gradient norm is nan(?s:.*)the state before it is saved"):
        train(toy, prompts, tmp_path / "run")
    assert checkpoints(tmp_path / "run")[-1] == f"step-{FAILS_AT:08d}"
    assert_same_bits(whole.policy.trainable(), train(make_toy(changes), prompts, tmp_path / "run").policy.trainable())


def test_what_is_too_large_to_hold_resumes_from_the_last_checkpoint(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr.training.run.HELD_BYTES", 0)
    changes = CHANGES | {"grpo.passes_per_rollout": 2, "memory.tokens_per_micro_batch": 10_000}
    whole, toy = train(make_toy(changes), prompts, tmp_path / "whole"), make_toy(changes)
    spoil(toy.policy, after=2 * FAILS_AT + 1)
    with pytest.raises(StepFailed, match=r"resume from its last checkpoint, after step 2"):
        train(toy, prompts, tmp_path / "run")
    assert checkpoints(tmp_path / "run") == ["step-00000002"]
    assert_same_bits(whole.policy.trainable(), train(make_toy(changes), prompts, tmp_path / "run").policy.trainable())


def test_a_reward_of_the_user_that_raises(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks_for_more(sample: Sample) -> float:
        raise UserError("this reward needs a key: set OPENAI_API_KEY")

    monkeypatch.setitem(FUNCTIONS, "asks_for_more", asks_for_more)
    toy = make_toy(CHANGES | {"rewards": {"asks_for_more": {"weight": 1.0, "options": {}}}})
    with pytest.raises(StepFailed, match=r"step 1: (?s:.*)the state before it is saved"):
        train(toy, prompts, tmp_path / "run")
    assert checkpoints(tmp_path / "run") == ["step-00000000"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk of its own needs root: mount -t tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Leave that many bytes on the disk."""
    filler, free = disk / "filler", os.statvfs(disk)
    with filler.open("wb") as file, suppress(OSError):
        file.write(b"\0" * (free.f_bavail * free.f_frsize - leave))
    return filler


@pytest.mark.parametrize("leave", [0, 8192, 60_000], ids=["at a log line", "at a table", "at a checkpoint"])
def test_a_disk_that_fills_up(
    leave: int, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path, small_disk: Path
) -> None:
    changes = CHANGES | {"grpo.log_completions_every": 1}
    whole = train(make_toy(changes), prompts, tmp_path / "whole")

    def show(done: int, **values: float | None) -> None:
        if done == FAILS_AT:
            fill(small_disk, leave=leave)

    with pytest.raises(StepFailed, match=r"no space left on the disk(?s:.*)run the same command again") as caught:
        train(make_toy(changes), prompts, small_disk / "run", show=show)
    assert "resume from its last checkpoint, after step 2" in str(caught.value)
    assert checkpoints(small_disk / "run") == ["step-00000002"]
    assert not (small_disk / "run/writing").exists()
    with pytest.raises(UserError, match="no space left"), open_run("grpo", {"data": "same"}):
        (small_disk / "more").write_bytes(b"\0" * 5_000_000)
    (small_disk / "filler").unlink()
    (small_disk / "more").unlink()
    again = train(make_toy(changes), prompts, small_disk / "run")
    assert_same_bits(whole.policy.trainable(), again.policy.trainable())
    lines = (small_disk / "run/train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == STEPS


def test_what_follows_the_last_step_may_fail(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of a finished run that could not be written: the next run trains nothing and writes them."""
    monkeypatch.chdir(tmp_path)
    toy, shown = make_toy(CHANGES | {"grpo.checkpoint_every": 100}), []
    full = OSError(28, "No space left on device", "models/grpo/model.safetensors")
    with (
        pytest.raises(UserError, match=r"no space left on the disk of models/grpo(?s:.*), after step 6"),
        open_run("grpo", {"data": "same"}) as run,
    ):
        train(toy, prompts, run.folder)
        raise full
    again = make_toy(CHANGES | {"grpo.checkpoint_every": 100})
    with open_run("grpo", {"data": "same"}) as run:
        train(again, prompts, run.folder, show=lambda done, **values: shown.append(done))
    assert shown == []
    assert_same_bits(toy.policy.trainable(), again.policy.trainable())


def test_a_stop_is_no_failure(make_toy: Callable[..., Any], tmp_path: Path) -> None:
    toy = make_toy(CHANGES)
    optimizer = grpo.make_optimizer(toy.cfg, toy.resolved, toy.policy, STEPS)
    with pytest.raises(Interrupted), Run(tmp_path).training(1, toy.policy, optimizer, {}):
        raise Interrupted("stopped")
    assert not checkpoints(tmp_path)
