"""Hostile programs: none gets out, each is wrong by its cause and in time; as the user of the tests and as nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlvr
from rlvr.verifiers.sandbox import bubblewrap
from support import hostile
from support.hostile import FORGERIES, LIMITS, PROGRAMS
from support.sandboxed import need_bubblewrap

pytestmark = pytest.mark.deadline

REPOSITORY = str(Path(__file__).parents[2])
USERS = ("this user", "nobody")


@pytest.fixture(scope="module", params=USERS)
def verified(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Any]]:
    """All results of hostile.py, by group and name, from a process of the user."""
    need_bubblewrap()
    before = []
    if request.param == "nobody":
        if os.geteuid() != 0:
            pytest.skip("only root can become nobody")
        before = list(bubblewrap.as_nobody())
    with tempfile.TemporaryDirectory(prefix="rlvr-hostile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "canaries").mkdir()
        (folder / "canaries").chmod(0o777)
        copy_sources(folder)
        home = [str(path) for path in Path.home().iterdir() if not bubblewrap.interpreter().startswith(str(path))]
        script = [
            bubblewrap.interpreter(),
            "-S",
            str(folder / "hostile.py"),
            str(folder / "canaries"),
            json.dumps(home),
            REPOSITORY,
        ]
        environment = {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [*before, *script], env=environment, cwd="/", capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    yield {(result["group"], result.get("name", "")): result for result in results}


def copy_sources(folder: Path) -> None:
    """What hostile.py needs, where every user can read it."""
    source = Path(rlvr.__file__).parent
    shutil.copytree(source / "verifiers", folder / "rlvr" / "verifiers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "types.py"):
        shutil.copy(source / name, folder / "rlvr")
    shutil.copy(hostile.__file__, folder)


def test_nothing_on_the_host_was_touched_heard_or_left_running(verified: dict[tuple[str, str], Any]) -> None:
    canaries = verified["canaries", ""]
    assert canaries["heard"] == canaries["survivors"] == canaries["changed"] == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_is_wrong_by_its_cause_and_in_time(verified: dict[tuple[str, str], Any], name: str) -> None:
    result = verified["program", name]
    verdict = result["verdict"]
    assert verdict["outcome"] == "wrong"
    assert (verdict["cause"] or "plain") in PROGRAMS[name][0].split("|"), verdict
    assert result["seconds"] < LIMITS["wall_seconds"] + 1.0


@pytest.mark.parametrize("name", FORGERIES)
def test_no_result_can_be_forged(verified: dict[tuple[str, str], Any], name: str) -> None:
    verdict = verified["forgery", name]["verdict"]
    assert verdict["outcome"] == "wrong"
    assert verdict["details"]["tests_passed"] == 0, verdict


def test_a_good_program_is_right_afterwards(verified: dict[tuple[str, str], Any]) -> None:
    verdict = verified["good", "a good program afterwards"]["verdict"]
    assert verdict["outcome"] == "right", verdict


def test_the_suite_ran_as_who_it_says(verified: dict[tuple[str, str], Any], request: pytest.FixtureRequest) -> None:
    is_nobody = "nobody" in request.node.name
    assert verified["canaries", ""]["uid"] == (bubblewrap.NOBODY if is_nobody else os.getuid())
