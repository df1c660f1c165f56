"""Checkpoints and logs of a run that is killed or damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rlvr.model.policy import Policy
from rlvr.training import checkpoint
from rlvr.training.optim import Optimizer
from rlvr.training.run import Run, check_completions, check_log
from support.precision import assert_same_bits, assert_same_weights


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
        assert_same_weights(policy.model, again.model)

    def test_without_a_checkpoint_nothing_changes(self, run: Run, make_policy: Callable[..., Policy]) -> None:
        policy, untouched = make_policy(), make_policy()
        assert run.restore(policy, make_optimizer(policy)) == (0, {})
        assert_same_weights(policy.model, untouched.model)
        assert run.log.read_text() == ""

    def test_the_newest_is_loaded_and_two_are_kept(self, run: Run, make_policy: Callable[..., Policy]) -> None:
        policy = make_policy()
        optimizer = make_optimizer(policy)
        for step in (9, 10, 100):
            run.save(step, policy, optimizer, {"at": step})
        assert sorted(path.name for path in run.checkpoints()) == ["step-00000010", "step-00000100"]
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

    def test_a_step_that_is_saved_twice_is_never_without_a_checkpoint(
        self, run: Run, make_policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed at whatever call removes or renames."""
        policy = make_policy()
        optimizer = make_optimizer(policy)
        run.save(1, policy, optimizer, {})
        seen = []

        def watched(call: Callable[..., Any]) -> Callable[..., Any]:
            def watch(*arguments: Any, **options: Any) -> Any:
                before = run.restore(make_policy(), make_optimizer(policy))
                done = call(*arguments, **options)
                seen.extend([before, run.restore(make_policy(), make_optimizer(policy))])
                return done

            return watch

        monkeypatch.setattr("rlvr.training.run.shutil.rmtree", watched(shutil.rmtree))
        for step in (1, 2, 2):
            run.save(step, policy, optimizer, {})
        assert {step for step, _ in seen} <= {1, 2}
        assert run.restore(policy, optimizer) == (2, {})

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


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "gone": Path.unlink,
    "other JSON": lambda file: file.write_text('{"step": 4, "notes": {}}'),
}


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.STATE])
@pytest.mark.parametrize("damage", DAMAGES)
class TestDamage:
    def test_it_is_set_aside_and_the_one_before_is_taken(
        self, damage: str, name: str, run: Run, make_policy: Callable[..., Policy], capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy = make_policy()
        optimizer = make_optimizer(policy)
        train(policy, optimizer, 0, 1)
        run.save(2, policy, optimizer, {"at": 2})
        expected = make_policy()
        assert run.restore(expected, make_optimizer(expected)) == (2, {"at": 2})
        train(policy, optimizer, 2, 3)
        run.save(4, policy, optimizer, {"at": 4})
        DAMAGES[damage](run.folder / "step-00000004" / name)

        again = make_policy()
        assert run.restore(again, make_optimizer(again)) == (2, {"at": 2})
        assert_same_weights(again.model, expected.model)
        said = capsys.readouterr().out
        assert name in said and "broken-step-00000004" in said and "after step 2 is used" in said
        assert (run.folder / "broken-step-00000004").exists()
        run.save(4, policy, optimizer, {"at": 4})
        assert run.restore(again, make_optimizer(again)) == (4, {"at": 4})

    def test_without_another_one_the_run_begins_anew(
        self, damage: str, name: str, run: Run, make_policy: Callable[..., Policy], capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy, untouched = make_policy(), make_policy()
        optimizer = make_optimizer(policy)
        run.append_log({"step": 0})
        run.save(1, policy, optimizer, {})
        DAMAGES[damage](run.folder / "step-00000001" / name)
        assert run.restore(policy, optimizer) == (0, {})
        assert_same_weights(policy.model, untouched.model)
        assert "the run begins at its first step" in capsys.readouterr().out
        assert run.log.read_text() == ""


def test_weights_of_another_model_are_not_taken(
    run: Run, make_policy: Callable[..., Policy], capsys: pytest.CaptureFixture[str]
) -> None:
    """A tensor of one number would be copied into every place."""
    policy = make_policy()
    optimizer = make_optimizer(policy)
    state = {name: torch.zeros(1) for name in policy.trainable()}
    checkpoint.write(run.folder / "step-00000003", checkpoint.Checkpoint(3, (state, optimizer.state()), {}))
    before = {name: weight.clone() for name, weight in policy.trainable().items()}
    assert run.restore(policy, optimizer) == (0, {})
    assert_same_bits(policy.trainable(), before)
    assert "weights of another model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "is_told"),
    [
        (['{"step": 0}', '{"step": 1}', '{"step": 2}'], False),
        (['{"step": 0}', '{"step": 2}'], True),
        (['{"step": 0}', "\x00\x00", '{"step": 2}'], True),
        (['{"step": 0}', "7", '{"step": 2}'], True),
        (['{"step": 0}', '{"step": 1}', '{"step": 1}', '{"step": 2}'], True),
        ([], True),
    ],
)
def test_a_log_that_lacks_steps_is_told(
    lines: list[str],
    is_told: bool,
    run: Run,
    make_policy: Callable[..., Policy],
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy = make_policy()
    optimizer = make_optimizer(policy)
    run.save(3, policy, optimizer, {})
    run.log.write_bytes("".join(f"{line}\n" for line in lines).encode())
    step, _ = run.restore(policy, optimizer)
    check_log(run, step)
    assert ("is damaged" in capsys.readouterr().out) == is_told


def test_log_lines_are_json(run: Run) -> None:
    record: dict[str, Any] = {"step": 3, "reward/mean": 0.1 + 0.2, "policy/kl": 0.0}
    run.append_log(record)
    run.append_log(record)
    assert [json.loads(line) for line in run.log.read_text().splitlines()] == [record, record]


class TestCompletions:
    """Tables of the steps before a checkpoint, against what its notes say of them."""

    @pytest.fixture
    def written(self, run: Run) -> dict[str, str]:
        run.completions.mkdir()
        tables = {step: pd.DataFrame({"step": step, "text": [f"answer {i}" for i in range(3)]}) for step in (0, 2)}
        written: dict[str, str] = {}
        for step, table in tables.items():
            written |= run.write_completions(step, table)
            pd.testing.assert_frame_equal(pd.read_parquet(run.completions / f"{step:08d}.parquet"), table)
        return written

    def test_whole_tables_are_kept_without_a_word(
        self, run: Run, written: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        check_completions(run, written)
        assert {file.name for file in run.completions.iterdir()} == written.keys()
        assert capsys.readouterr().out == ""

    def test_any_flipped_bit_is_noticed(
        self, run: Run, written: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad = run.completions / "00000002.parquet"
        whole = bad.read_bytes()
        for at in range(len(whole)):
            bad.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            check_completions(run, written)
            assert [file.name for file in run.completions.iterdir()] == ["00000000.parquet"], at
            assert f"warning: {bad} is damaged" in capsys.readouterr().out, at

    def test_a_table_that_cannot_be_read_stops_nothing(
        self, run: Run, written: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad, others = run.completions / "00000002.parquet", run.completions / ".ipynb_checkpoints"
        bad.unlink()
        bad.mkdir()
        others.mkdir()
        check_completions(run, written)
        assert not bad.exists() and others.exists()
        assert capsys.readouterr().out.count(f"warning: {bad} is damaged") == 1
        run._forget_logs_from(1)
        assert [file.name for file in run.completions.iterdir()] == ["00000000.parquet"]

    @pytest.mark.parametrize("damage", ["cut", "empty", "JSON", "another"])
    def test_other_damage_is_noticed(
        self, damage: str, run: Run, written: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        good, bad = run.completions / "00000000.parquet", run.completions / "00000002.parquet"
        cut, another = bad.read_bytes()[:-1], good.read_bytes()
        bad.write_bytes({"cut": cut, "empty": b"", "JSON": b"{}", "another": another}[damage])
        check_completions(run, written)
        assert good.exists() and not bad.exists()
        assert f"warning: {bad} is damaged" in capsys.readouterr().out

    def test_a_deleted_table_is_told(
        self, run: Run, written: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        gone = run.completions / "00000000.parquet"
        gone.unlink()
        check_completions(run, written)
        assert f"warning: {gone} is missing" in capsys.readouterr().out

    def test_an_extra_table_is_removed(
        self, run: Run, written: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        extra = run.completions / "00000001.parquet"
        shutil.copy(run.completions / "00000000.parquet", extra)
        check_completions(run, written)
        assert {file.name for file in run.completions.iterdir()} == written.keys()
        assert f"warning: {extra} was not written by this run" in capsys.readouterr().out
