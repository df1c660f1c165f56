"""dvc.yaml says what the code does: parameters, code dependencies, and nothing in two places."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import Config, check_config, presets, read_yaml
from rlvr.stages.code import code_dependencies, reached
from rlvr.tasks.source import FOLLOWED
from support.clone import ROOT, STAGES
from support.smoke import OVERLAY, smoke_params


def spec(stage: str) -> dict[str, Any]:
    stages: dict[str, dict[str, Any]] = read_yaml(ROOT / "dvc.yaml")["stages"]
    return stages[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_that_the_stage_may_read(stage: str) -> None:
    module = importlib.import_module(f"rlvr.stages.{stage}")
    assert list(module.SECTIONS) == spec(stage)["params"]
    assert set(module.SECTIONS) <= set(Config.model_fields)


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_what_the_source_reaches(stage: str) -> None:
    listed = [dep for dep in spec(stage)["deps"] if dep.startswith("src/")]
    found = [str(Path(path).relative_to(ROOT)) for path in code_dependencies(stage, ROOT / "src")]
    assert listed == found, "dvc.yaml is stale: make deps"


def test_what_a_person_types_and_what_only_watches_makes_no_stage_stale() -> None:
    harmless = [f"src/rlvr/{folder}/" for folder in ("runtime", "commands")] + ["docs/", "src/rlvr/cli.py"]
    touched = [file for stage in STAGES for file in reached(f"rlvr.stages.{stage}", ROOT / "src")]
    assert [str(file) for file in touched if str(file.relative_to(ROOT)).startswith(tuple(harmless))] == []
    deps = [dep for stage in STAGES for dep in spec(stage)["deps"]]
    covered = [(dep, path) for dep in deps for path in harmless if Path(path).is_relative_to(dep)]
    assert covered == [], "a folder among the dependencies holds what changes no result"


@pytest.mark.parametrize("stage", STAGES)
def test_command_runs_the_stage_of_its_name_from_this_source(stage: str) -> None:
    assert spec(stage)["cmd"] == f"exec env PYTHONPATH=src RLVR_PARENT=$PPID python -m rlvr {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_keep_the_run_cache(stage: str) -> None:
    """An option such as cache: false on a plain output would switch it off for the stage."""
    assert all(isinstance(out, str) for out in spec(stage).get("outs", []))


def test_smoke_settings_are_valid_and_hold_only_what_differs() -> None:
    check_config(smoke_params(), str(OVERLAY))
    default, overlay = (dict(presets.leaves(read_yaml(file))) for file in (ROOT / "params.yaml", OVERLAY))
    assert [key for key, value in overlay.items() if default[key] == value and not key.startswith("rewards.")] == []


def test_folders_whose_edits_are_said_to_re_run_prepare_are_its_dependencies() -> None:
    assert {str(folder) for folder in FOLLOWED} == {
        dep for dep in spec("prepare")["deps"] if not dep.startswith("src/")
    }
    assert all((ROOT / folder).is_dir() for folder in FOLLOWED)
    assert (ROOT / "data/raw/.gitignore").is_file(), "git keeps no empty folder, and dvc wants its dependency to exist"
