"""The runs that a stage keeps: begun, continued, told apart, finished, removed, and locked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.training.kept_runs import DONE, FOLDER, RECIPE, delete, kept_runs, open_run
from rlvr.training.run import Run
from rlvr.types import UserError

HOLD_THE_LOCK = """
import sys
from rlvr.training.kept_runs import open_run
with open_run("grpo", {"data": "same"}):
    print("locked", flush=True)
    sys.stdin.read()
"""
FAST, SLOW = ({"settings": {"grpo.learning_rate": rate, "grpo.steps": 9}, "code": "c"} for rate in (1e-3, 1e-4))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def interrupted(recipe: dict[str, Any], step: int) -> Run:
    with pytest.raises(KeyboardInterrupt), open_run("grpo", recipe) as run:
        run.append_log({"step": step - 1})
        (run.folder / f"step-{step:08d}").mkdir()
        raise KeyboardInterrupt
    return run


def finished(recipe: dict[str, Any]) -> Run:
    with open_run("grpo", recipe) as run:
        run.append_log({"step": 0})
    return run


def test_a_run_is_continued_as_long_as_its_recipe_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    first = interrupted(FAST, 3)
    with open_run("grpo", dict(reversed(FAST.items()))) as run:
        assert run.folder == first.folder and run.last_step() == 3
    assert capsys.readouterr().out == ""


def test_another_recipe_begins_a_run_and_says_what_changed_and_how_to_go_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = interrupted(FAST, 3)
    with pytest.raises(KeyboardInterrupt), open_run("grpo", SLOW | {"code": "d"}) as run:
        assert run.folder != first.folder and run.last_step() == 0
        raise KeyboardInterrupt
    said = capsys.readouterr().out
    for words in ("grpo.learning_rate is 0.0001 and was 0.001", "the code changed", "after step 3", "is kept"):
        assert words in said
    assert f"rlvr runs delete {first.folder.name}" in said
    with open_run("grpo", FAST) as run:
        assert run.folder == first.folder and run.last_step() == 3


def test_a_finished_run_is_given_again_until_its_results_are_in_dvc(capsys: pytest.CaptureFixture[str]) -> None:
    first = finished(FAST)
    with open_run("grpo", FAST, is_in_dvc=lambda log: False) as run:
        assert run.log.read_text() == first.log.read_text() != ""
    assert "had finished: its results are written again, no step is trained" in capsys.readouterr().out
    with open_run("grpo", FAST, is_in_dvc=lambda log: log.exists()) as run:
        assert not run.log.exists()


def test_a_finished_run_goes_when_another_one_has_finished() -> None:
    first, other = finished(FAST), interrupted(SLOW | {"code": "d"}, 2)
    assert first.folder.exists()
    last = finished(SLOW)
    assert not first.folder.exists() and other.folder.exists() and (last.folder / DONE).exists()


def test_a_finished_run_that_becomes_longer_says_why_it_begins_again(capsys: pytest.CaptureFixture[str]) -> None:
    longer = {"settings": {"grpo.learning_rate": 1e-3, "grpo.steps": 12}, "code": "c"}
    finished(FAST)
    finished(longer)
    said = capsys.readouterr().out
    assert "this grpo starts from its first step: grpo.steps is 12 and was 9." in said and "is not continued" in said
    finished(SLOW)
    assert capsys.readouterr().out == ""


def test_kept_runs_are_told_newest_first() -> None:
    interrupted(FAST, 3)
    last = finished(SLOW)
    os.utime(last.log, (2**31, 2**31))
    newest, older = kept_runs("grpo")
    assert (newest.name, newest.state, older.state) == (last.folder.name, "finished", "after step 3")
    assert kept_runs("sft") == []


@pytest.mark.parametrize("content", ["", "{", "\0\0\0", None])
def test_a_run_with_a_damaged_recipe_stops_nothing(content: str | None) -> None:
    """Its folder is named by what made it, so it can still be continued."""
    run = interrupted(FAST, 3)
    if content is None:
        (run.folder / RECIPE).unlink()  # its making or removal was cut off
    else:
        (run.folder / RECIPE).write_text(content)
    with open_run("grpo", SLOW):
        assert run.folder.exists() == (content is not None)
    with open_run("grpo", FAST) as again:
        assert again.last_step() == (0 if content is None else 3)


def test_a_kill_while_a_run_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(FAST, 3)

    def kill(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("rlvr.training.kept_runs.shutil.rmtree", kill)
        delete(run.folder)
    assert (run.folder / "step-00000003").exists()
    with open_run("grpo", FAST) as again:
        assert again.last_step() == 0


def test_stages_do_not_meet() -> None:
    with open_run("sft", FAST) as sft, open_run("grpo", FAST) as grpo:
        assert sft.folder != grpo.folder


def test_a_second_process_is_refused_by_the_number_of_the_first_until_that_is_killed() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD_THE_LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match=rf"process {holder.pid} is running grpo.*wait for it or stop it"):
            open_run("grpo", {"data": "same"}).__enter__()
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    with open_run("grpo", {"data": "same"}) as run:
        assert run.folder.exists()


def test_a_recipe_can_be_read_by_a_person() -> None:
    run = interrupted(FAST, 1)
    assert json.loads((FOLDER / "grpo" / run.folder.name / RECIPE).read_text()) == FAST
