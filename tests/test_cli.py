"""The command line: stages, and messages in place of tracebacks for what the user can mend."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr import cli
from rlvr.types import Interrupted, UserError

PARAMS = Path(__file__).parent.parent / "params.yaml"
STAGES = ("prepare", "sft", "grpo", "evaluate", "report")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run a command in an empty folder; its exit code. No stage does anything unless a test says so."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["rlvr", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return run


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_runs_its_stage_and_no_other(
    stage: str, call: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    for name in STAGES:
        monkeypatch.setattr(f"rlvr.stages.{name}.main", lambda name=name: ran.append(name))
    assert call(stage) == 0
    assert ran == [stage]


def test_what_serve_does_not_know_goes_to_the_server(call: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[int, list[str]]] = []
    monkeypatch.setattr("rlvr.commands.serve.main", lambda place, extra: got.append((place.port, list(extra))))
    assert call("serve", "--gpu-memory-utilization", "0.5", "--port", "9000", "--seed=3") == 0
    assert got == [(9000, ["--gpu-memory-utilization", "0.5", "--seed=3"])]


def test_what_the_user_can_mend_is_one_message(
    call: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise UserError("the model is missing: use another")

    monkeypatch.setattr("rlvr.stages.sft.main", fail)
    assert call("sft") == 1
    assert capsys.readouterr().err == "error: the model is missing: use another\n"


def test_a_stop_is_no_failure_of_the_program_and_says_how_to_go_on(
    call: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise Interrupted("stopped after step 3 of 9")

    monkeypatch.setattr("rlvr.stages.grpo.main", stop)
    assert call("grpo") == 130
    assert capsys.readouterr().err == "stopped after step 3 of 9. Run the same command again to resume.\n"


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch, call: Callable[..., int]) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rlvr.stages.grpo.main", fail)
    with pytest.raises(ZeroDivisionError):
        call("grpo")


def test_check(call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check") == 1
    assert "params.yaml does not exist here" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    assert call("check") == 0
    assert capsys.readouterr().out == "params.yaml is fine\n"
    (tmp_path / "params.yaml").write_text(PARAMS.read_text().replace("threads: 1", "threads: 0"))
    assert call("check") == 1
    assert "compute.threads: 0 (int)" in capsys.readouterr().err


def test_check_says_that_the_data_are_missing(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PARAMS.read_text().replace("  task: arithmetic ", "  task: records ")
    text = text.replace("source: examples/records/unit_conversions.csv", "source: mine.csv")
    (tmp_path / "params.yaml").write_text(text)
    assert call("check") == 1
    assert "mine.csv" in (said := capsys.readouterr()).err and said.out == ""
    (tmp_path / "mine.csv").touch()
    assert call("check") == 0


def test_check_says_what_is_unlikely_to_work(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text().replace("  steps: 300 ", "  steps: 30 "))
    assert call("check") == 0
    first, note = capsys.readouterr().out.splitlines()
    assert first == "params.yaml is fine"
    assert note.startswith("note: grpo runs 30 steps")


@pytest.mark.parametrize("is_there", [False, True])
def test_check_says_that_the_device_is_missing(
    is_there: bool,
    call: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: is_there)
    (tmp_path / "params.yaml").write_text(PARAMS.read_text().replace("  device: cpu ", "  device: cuda "))
    assert call("check") == 0
    said = capsys.readouterr().out.splitlines()
    told = [line for line in said if re.fullmatch("warning: compute.device is cuda, .* use auto or cpu", line)]
    assert said[0] == "params.yaml is fine" and len(told) == (not is_there)


def test_help_names_every_stage(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert all(stage in text for stage in STAGES)


def test_as_a_program(tmp_path: Path) -> None:
    """As dvc.yaml calls it: python -m rlvr."""
    found = subprocess.run(
        [sys.executable, "-m", "rlvr", "check"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert found.stderr.startswith("error: params.yaml does not exist here")
    assert "Traceback" not in found.stderr
