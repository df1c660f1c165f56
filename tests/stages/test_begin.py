"""What a stage or command says before it loads anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import load_config
from rlvr.stages import code
from rlvr.stages.begin import edits, stage, tell_edits
from rlvr.types import UserError
from rlvr.verifiers.workers import own
from rlvr.verifiers.workers.pool import Workers
from support.smoke import smoke_params


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(smoke_params(), encoding="utf-8")
    Path("dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    return tmp_path


def test_a_stage_names_the_one_to_run_first() -> None:
    with pytest.raises(UserError, match=r"data/prepared/card\.json does not exist: run `rlvr prepare` first"):
        stage("grpo", ["grpo"], after=("prepare", "sft")).__enter__()
    card = Path("data/prepared/card.json")
    card.parent.mkdir(parents=True)
    card.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"grpo reads what sft makes, .*: run `rlvr sft` first"):
        stage("grpo", ["grpo"], after=("prepare", "sft")).__enter__()
    with stage("sft", ["sft"], after=("prepare",)) as cfg:
        assert cfg.sft.enabled


def put(value: int) -> None:
    """Another number of steps of the pre-finetune."""
    params = Path("params.yaml")
    text, count = re.subn(r"(?m)^(  max_steps: )\d+", rf"\g<1>{value}", params.read_text(encoding="utf-8"))
    assert count == 1
    params.write_text(text, encoding="utf-8")


def test_an_edit_is_said_once_and_one_that_is_taken_back_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    put(60)
    good = Path("params.yaml").read_text(encoding="utf-8")
    with stage("sft", ["sft"]) as cfg:
        tell = tell_edits(edits("sft", cfg, ["sft"]))
        tell()
        assert capsys.readouterr().out == ""
        Path("params.yaml").write_text(f"{good}\nbroken: {{", encoding="utf-8")
        tell()
        assert "params.yaml was edited (params.yaml is not valid YAML" in capsys.readouterr().out
        Path("params.yaml").write_text(good, encoding="utf-8")
        tell()
        assert capsys.readouterr().out == "note: the edit was undone\n"
        put(61)
        tell()
        tell()
        assert capsys.readouterr().out.count("params.yaml was edited: this run continues") == 1
        put(60)


def test_an_edit_that_stays_fails_the_stage() -> None:
    put(60)
    with (
        pytest.raises(UserError, match=r"params.yaml was edited while sft ran: (?s:.*) no step is trained again"),
        stage("sft", ["sft"]),
    ):
        put(61)
    with stage("sft", ["grpo"]):  # of another section
        put(62)


@pytest.mark.parametrize(("name", "is_read"), [("grpo", True), ("evaluate", True), ("sft", False)])
def test_an_edited_reward_fails_the_stages_that_score(name: str, is_read: bool, project: Path) -> None:
    (project / "user").mkdir()
    reward = project / "user/mine.py"
    reward.write_text("def f(completion): return 1.0\n", encoding="utf-8")
    with stage(name, ["grpo"]) as cfg:
        edited = edits(name, cfg, ["grpo"])
        reward.write_text("def f(completion): return 2.0\n", encoding="utf-8")
        assert edited() == ("user/ was edited" if is_read else None)
        reward.write_text("def f(completion): return 1.0\n", encoding="utf-8")
        assert edited() is None


def test_workers_call_the_functions_as_they_were_when_the_stage_began(project: Path) -> None:
    """... and what these read next to them, in the sandbox too."""
    (project / "user/words").mkdir(parents=True)
    reward, words = project / "user/mine.py", project / "user/words/list.txt"
    source = (
        "from pathlib import Path\nimport helper\n"
        "def f(completion):\n    return helper.ONE + len((Path(__file__).parent / 'words/list.txt').read_text())\n"
    )
    reward.write_text(source, encoding="utf-8")
    (project / "user/helper.py").write_text("ONE = 1\n", encoding="utf-8")
    words.write_text("ab", encoding="utf-8")
    items = [{"completion": "x", "prompt": "", "num_tokens": 1, "answer": "", "extracted": None, "columns": {}}]
    arguments: dict[str, Any] = {
        "items": items,
        "path": "user/mine.py",
        "function": "f",
        "options": {},
        "messages": None,
    }

    def points() -> Any:
        with Workers(1, memory_bytes=2**31) as workers:  # a new process, as after one that was killed
            reply = workers.submit("rlvr.verifiers.workers.own:call", arguments, seconds=60.0).result()
        assert reply.failure is None, reply.message
        return reply.value["points"]

    with stage("grpo", ["grpo"]):
        assert points() == [3.0]
        reward.write_text("def f(completion): return 9.0\n", encoding="utf-8")
        words.write_text("abcdef", encoding="utf-8")
        (project / "user/helper.py").unlink()
        assert points() == [3.0]
        reward.write_text(source, encoding="utf-8")
        words.write_text("ab", encoding="utf-8")
        (project / "user/helper.py").write_text("ONE = 1\n", encoding="utf-8")
    reward.write_text("def f(completion): return 9.0\n", encoding="utf-8")
    assert points() == [9.0] and code.COPY == own.COPY


def test_edited_code_fails_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    with stage("grpo", ["grpo"]) as cfg:
        edited = edits("grpo", cfg, ["grpo"])
        with monkeypatch.context() as patched:
            patched.setattr("rlvr.stages.begin.code_hash", lambda stage: "another")
            assert edited() == "the code of this stage was edited"
        assert edited() is None


def test_a_folder_within_the_project_says_where_to_go(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "docs/deep").mkdir(parents=True)
    monkeypatch.chdir(project / "docs/deep")
    with pytest.raises(UserError, match=rf"run from the top of the project: cd {project}$"):
        load_config()


@pytest.mark.parametrize("command", ["serve", "generate"])
def test_a_command_that_leaves_no_results_begins_too(command: str, project: Path) -> None:
    with stage(command, ["model"]) as cfg:
        assert cfg.model.source == "scratch"
    assert not (project / "models").exists()


def test_inputs_that_are_replaced_are_an_edit(project: Path) -> None:
    weights = project / "models/sft/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    with stage("grpo", ["grpo"]) as cfg:
        edited = edits("grpo", cfg, ["grpo"])
        weights.write_bytes(b"weights")
        assert edited() is None
        weights.write_bytes(b"others!")
        assert edited() == "models/sft was edited"
        weights.unlink()
        assert edited() == "models/sft was edited"
        weights.write_bytes(b"weights")
        assert edited() is None
    with pytest.raises(UserError, match="models was edited while evaluate ran"), stage("evaluate", ["evaluate"]):
        weights.write_bytes(b"others!")


HOLD_THE_LOCK = """
import sys
from pathlib import Path
from rlvr.runtime.lock import locked
with locked(Path(".checkpoints"), sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["prepare", "evaluate", "report"])
def test_one_process_at_a_time_runs_a_stage(name: str, project: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(Path(code.__file__).parents[2])}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, name], cwd=project, env=env, stdin=pipe, stdout=pipe
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match=rf"process {holder.pid} is running {name} in this folder: wait for it"):
            stage(name, ["compute"]).__enter__()
        holder.communicate()
    with stage(name, ["compute"]):
        pass
