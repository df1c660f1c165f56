"""`rlvr runs` and `rlvr runs delete`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.commands import runs
from rlvr.config import load_config
from rlvr.training.kept_runs import kept_runs, open_run
from rlvr.types import UserError
from support.smoke import smoke_params


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(smoke_params(), encoding="utf-8")


def interrupt(rate: float) -> str:
    recipe = {"settings": {"grpo.learning_rate": rate}, "code": "c"}
    with pytest.raises(KeyboardInterrupt), open_run("grpo", recipe) as run:
        (run.folder / "step-00000012").mkdir()
        raise KeyboardInterrupt
    return run.folder.name


def test_runs_are_listed_with_what_params_has_changed_since(capsys: pytest.CaptureFixture[str]) -> None:
    cfg = load_config()
    runs.show(cfg)
    assert "no runs are kept" in capsys.readouterr().out
    same, other = interrupt(cfg.grpo.learning_rate), interrupt(0.125)
    capsys.readouterr()
    runs.show(cfg)
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "after step 12" in lines[same] and lines[same].endswith("these settings")
    assert lines[other].endswith(f"grpo.learning_rate is {cfg.grpo.learning_rate} and was 0.125")


def test_runs_are_deleted_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = interrupt(0.25), interrupt(0.125)
    with pytest.raises(UserError, match=rf"unknown run nothing; known: .*{first}"):
        runs.remove([second, "nothing"])
    runs.remove([second])
    assert [run.name for run in kept_runs("grpo")] == [first]
    assert f"deleted {second}" in capsys.readouterr().out


def test_a_run_under_way_is_not_deleted() -> None:
    with open_run("grpo", {"settings": {}}) as run:
        with pytest.raises(UserError, match="is running grpo"):
            runs.remove([run.folder.name])
        assert run.folder.exists()
