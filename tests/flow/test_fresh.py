"""A fresh clone runs every stage once, and then nothing, whichever engine comes first."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.clone import ENGINES, OTHER, STAGES, Clone, Done

FirstRuns = dict[str, tuple[Clone, Done]]


def test_dry_run_of_a_fresh_clone_plans_every_stage(fresh: Clone, tmp_path: Path) -> None:
    clone = fresh.copy(tmp_path / "clone")
    plan = clone.run("snakemake", "-n")
    assert dict(re.findall(r"^(\w+) +(\d+)$", plan.text, re.MULTILINE)) == dict.fromkeys((*STAGES, "all"), "1") | {
        "total": str(len(STAGES) + 1)
    }
    assert not (clone.folder / "dvc.lock").exists()


def test_rules_are_the_stages_with_their_edges(fresh: Clone, tmp_path: Path) -> None:
    clone = fresh.copy(tmp_path / "clone")
    graph = clone.run("snakemake", "--rulegraph").text
    name = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    edges = {(name[a], name[b]) for a, b in re.findall(r"(\d+) -> (\d+)", graph) if name[b] != "all"}
    stages = clone.run("dvc", "stage", "list", "--names-only").text.split()
    assert set(name.values()) - {"all"} == set(stages) == set(STAGES)
    assert edges == set(re.findall(r'"(\w+)" -> "(\w+)"', clone.run("dvc", "dag", "--dot").text))


@pytest.mark.parametrize("engine", ENGINES)
def test_first_run_runs_each_stage_once(first_runs: FirstRuns, engine: str) -> None:
    assert first_runs[engine][1].ran == list(STAGES)


@pytest.mark.parametrize("engine", ENGINES)
def test_then_neither_engine_runs_anything(first_runs: FirstRuns, engine: str, tmp_path: Path) -> None:
    clone = first_runs[engine][0].copy(tmp_path / "clone")
    again, other, status = clone.repro(engine), clone.repro(OTHER[engine]), clone.run("dvc", "status")
    assert again.ran == other.ran == []
    assert "Nothing to be done" in again.text + other.text
    assert status.text.strip() == "Data and pipelines are up to date."


def test_a_run_changes_nothing_in_git_but_the_lock_file(first_runs: FirstRuns) -> None:
    for clone, _ in first_runs.values():
        assert clone.git("diff", "--name-only", "HEAD~1").split() == ["dvc.lock"]
        assert clone.git("status", "--porcelain") == ""


def test_both_engines_make_the_same_weights_whatever_the_threads_outside(first_runs: FirstRuns) -> None:
    """The first runs have different OMP_NUM_THREADS; see the fixture."""
    dvc, snakemake = (clone for clone, _ in first_runs.values())
    for stage in ("sft", "grpo"):
        assert dvc.weights(stage) == snakemake.weights(stage)
    assert dvc.weights("sft") != dvc.weights("grpo")


def test_a_stage_sets_its_threads_against_the_environment(fresh: Clone) -> None:
    code = (
        "import torch; from rlvr.stages.begin import stage; before = torch.get_num_threads()\n"
        "with stage('grpo', ['compute']): print(before, torch.get_num_threads())"
    )
    env = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "PYTHONPATH": "src"}
    assert fresh.run(sys.executable, "-c", code, env=env).text.split() == ["2", "1"]


def test_touching_every_file_runs_nothing(finished: Callable[[str], Clone]) -> None:
    clone = finished("clone")
    for path in clone.folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(clone.folder / ".dvc") and ".git" not in path.parts:
            path.touch()
    assert clone.repro("snakemake").ran == clone.repro("dvc").ran == []


def processor_seconds(clone: Clone, *command: str) -> float:
    """What a command and its children computed: other work on the machine does not count."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    return float(clone.run(sys.executable, "-c", code, *command).text.split()[-1])


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_to_do_is_said_soon(finished: Callable[[str], Clone], engine: str) -> None:
    """It takes little more than to start the engine and to ask DVC what is stale: torch alone would be twice that."""
    clone = finished("clone")
    clone.repro(engine)
    start = processor_seconds(clone, ENGINES[engine][0], "--version") + processor_seconds(clone, "dvc", "status")
    assert processor_seconds(clone, *ENGINES[engine]) < 2 * start


def test_a_clone_that_pulls_the_results_runs_nothing(finished: Callable[[str], Clone], tmp_path: Path) -> None:
    clone = finished("clone")
    clone.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    clone.run("dvc", "push")
    clone.commit()
    clone.git("clone", "--quiet", str(clone.folder), str(tmp_path / "pulled"))
    pulled = Clone(tmp_path / "pulled", clone.env)
    pulled.run("dvc", "pull")
    assert pulled.repro("snakemake").ran == pulled.repro("dvc").ran == []
    assert pulled.weights() == clone.weights()
    assert pulled.git("status", "--porcelain") == ""


def test_without_git_it_says_what_to_do(finished: Callable[[str], Clone]) -> None:
    clone = finished("clone")
    (clone.folder / ".git").rename(clone.folder.parent / "git")
    assert "git init" in clone.repro("snakemake", fails=True).text


def test_another_python_is_told_apart(fresh: Clone) -> None:
    """`dvc` can be called by its path while `python` is another one."""
    code = "import runpy, sys; sys.modules['typer'] = None; runpy.run_module('rlvr', run_name='__main__')"
    done = fresh.run(sys.executable, "-c", code, env={"PYTHONPATH": "src"}, fails=True)
    assert "Traceback" not in done.text
    assert sys.executable in done.text
    assert ".venv/bin/activate" in done.text
