"""Checkpoints and logs of a run that is killed, locked, or made by other parameters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.model.policy import Policy
from rlvr.training.optim import Optimizer
from rlvr.training.run import FOLDER, Run, open_run
from rlvr.types import UserError

HOLD_THE_LOCK = """
import sys
from rlvr.training.run import open_run
with open_run("grpo", "same"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "run"
    folder.mkdir()
    return Run(folder)


def make_optimizer(policy: Policy) -> Optimizer:
    return Optimizer(
        policy.trainable(),
        learning_rate=0.01,
        warmup_steps=3,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        schedule="constant",
        total_steps=9,
        kind="adamw",
        on_host=False,
        scales_loss=False,
    )


def train(policy: Policy, optimizer: Optimizer, *steps: int) -> None:
    for step in steps:
        for i, weight in enumerate(policy.trainable().values()):
            weight.grad = torch.cos(torch.arange(weight.numel()) + step + i).reshape(weight.shape).to(weight.dtype)
        optimizer.step_clipped(1.0)


def same_weights(a: Policy, b: Policy) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))


def steps_logged(run: Run) -> list[int]:
    return [json.loads(line)["step"] for line in run.log.read_text().splitlines()]


class TestCheckpoints:
    @pytest.mark.parametrize("adapter", ["none", "lora"])
    def test_a_restored_run_goes_on_with_the_same_bits(
        self, adapter: str, run: Run, make_policy: Callable[..., Policy]
    ) -> None:
        policy = make_policy(adapter=adapter, dtype=torch.float32)
        optimizer = make_optimizer(policy)
        train(policy, optimizer, 0, 1)
        run.save(2, policy, optimizer, {"measured": {"accuracy": 0.25}})
        train(policy, optimizer, 2, 3)

        again = make_policy(adapter=adapter, dtype=torch.float32)
        restored = make_optimizer(again)
        assert run.restore(again, restored) == (2, {"measured": {"accuracy": 0.25}})
        train(again, restored, 2, 3)
        assert same_weights(policy, again)

    def test_without_a_checkpoint_nothing_changes(self, run: Run, make_policy: Callable[..., Policy]) -> None:
        policy, untouched = make_policy(), make_policy()
        assert run.restore(policy, make_optimizer(policy)) == (0, {})
        assert all(
            torch.equal(a, b) for a, b in zip(policy.model.parameters(), untouched.model.parameters(), strict=True)
        )
        assert run.log.read_text() == ""

    def test_the_newest_is_loaded_and_older_ones_are_dropped(
        self, run: Run, make_policy: Callable[..., Policy]
    ) -> None:
        policy = make_policy()
        optimizer = make_optimizer(policy)
        for step in (9, 10, 100):
            run.save(step, policy, optimizer, {"at": step})
        assert [path.name for path in run.folder.glob("step-*")] == ["step-00000100"]
        assert run.restore(policy, optimizer) == (100, {"at": 100})

    def test_a_save_that_was_cut_off_is_ignored_and_overwritten(
        self, run: Run, make_policy: Callable[..., Policy]
    ) -> None:
        policy = make_policy()
        optimizer = make_optimizer(policy)
        run.save(1, policy, optimizer, {})
        (run.folder / "writing").mkdir()
        (run.folder / "writing" / "weights.safetensors").write_bytes(b"half")
        assert run.restore(policy, optimizer) == (1, {})
        run.save(2, policy, optimizer, {})
        assert run.restore(policy, optimizer) == (2, {})
        assert not (run.folder / "writing").exists()

    def test_a_kill_before_old_ones_are_dropped_does_no_harm(
        self, run: Run, make_policy: Callable[..., Policy]
    ) -> None:
        policy = make_policy()
        optimizer = make_optimizer(policy)
        run.save(1, policy, optimizer, {})
        (run.folder / "step-00000001").rename(run.folder / "kept")
        run.save(2, policy, optimizer, {})
        (run.folder / "kept").rename(run.folder / "step-00000001")
        assert run.restore(policy, optimizer) == (2, {})

    @pytest.mark.parametrize("kept", [0, 3])
    def test_logs_after_the_checkpoint_are_forgotten(
        self, kept: int, run: Run, make_policy: Callable[..., Policy]
    ) -> None:
        """... a line that was cut off too, and tables that are not whole."""
        policy = make_policy()
        optimizer = make_optimizer(policy)
        for step in range(5):
            run.append_log({"step": step, "loss": 0.5})
        with run.log.open("a") as file:
            file.write('{"step": 2, "lo')
        run.completions.mkdir()
        for name in ("00000000.parquet", "00000002.parquet", "00000003.parquet", "00000004.parquet", "writing.tmp"):
            (run.completions / name).touch()
        if kept:
            run.save(kept, policy, optimizer, {})
        run.restore(policy, optimizer)
        assert steps_logged(run) == list(range(kept))
        tables = {path.name for path in run.completions.iterdir()}
        assert tables == ({"00000000.parquet", "00000002.parquet"} if kept else set())


class TestOpenRun:
    def test_a_run_that_succeeds_leaves_nothing(self) -> None:
        with open_run("grpo", "same") as run:
            run.append_log({"step": 0})
            assert run.folder.exists()
        assert not run.folder.exists()

    def test_a_run_that_fails_stays_until_parameters_change(self) -> None:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), open_run("grpo", "same") as run:
                run.append_log({"step": 0})
                raise KeyboardInterrupt
        assert steps_logged(run) == [0, 0]
        with pytest.raises(KeyboardInterrupt), open_run("grpo", "other") as run:
            assert not run.log.exists()
            assert not list(run.folder.glob("step-*"))
            raise KeyboardInterrupt

    def test_stages_do_not_meet(self) -> None:
        with open_run("sft", "a") as sft, open_run("grpo", "b") as grpo:
            assert sft.folder != grpo.folder

    def test_a_run_whose_making_was_cut_off_begins_anew(self) -> None:
        (FOLDER / "grpo").mkdir(parents=True)
        (FOLDER / "grpo" / "step-00000005").mkdir()
        with open_run("grpo", "same") as run:
            assert not list(run.folder.glob("step-*"))

    def test_a_second_process_is_refused_by_the_number_of_the_first_until_that_is_killed(self) -> None:
        holder = subprocess.Popen([sys.executable, "-c", HOLD_THE_LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
            with pytest.raises(UserError, match=rf"process {holder.pid} is running grpo.*wait for it or stop it"):
                open_run("grpo", "same").__enter__()
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.communicate()
        with open_run("grpo", "same") as run:
            assert run.folder.exists()


def test_log_lines_are_json(run: Run) -> None:
    record: dict[str, Any] = {"step": 3, "reward/mean": 0.1 + 0.2, "policy/kl": 0.0}
    run.append_log(record)
    run.append_log(record)
    assert [json.loads(line) for line in run.log.read_text().splitlines()] == [record, record]
