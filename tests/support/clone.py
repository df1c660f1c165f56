"""A clone of this project in its own folder, run by the real engines."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ruamel.yaml import YAML

from rlvr.config import read_yaml
from support.smoke import default_params, smoke_params

ROOT = Path(__file__).parent.parent.parent
STAGES = tuple(read_yaml(ROOT / "dvc.yaml")["stages"])
ENGINES = {"dvc": ("dvc", "repro"), "snakemake": ("snakemake", "--cores", "1")}
OTHER = {"dvc": "snakemake", "snakemake": "dvc"}
Result = TypeVar("Result")
DEADLINE = 900.0  # seconds for anything to happen; many times what it takes, even on a slow machine


@dataclass(frozen=True)
class Done:
    """A command that ended: exit code, everything it printed."""

    code: int
    text: str

    @property
    def ran(self) -> list[str]:
        """The stages whose commands were executed, in order. Not those that DVC took from its cache."""
        return re.findall(r"^Running stage '(\w+)'", self.text, re.MULTILINE)


@dataclass(frozen=True)
class Clone:
    folder: Path
    env: dict[str, str]

    def run(
        self, *command: str, env: dict[str, str] | None = None, fails: bool = False, seconds: float = DEADLINE
    ) -> Done:
        """Run to the end. `fails`: whether it must; the output is in the error if it is otherwise."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert (done.returncode != 0) == fails, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return Done(done.returncode, done.stdout)

    def repro(self, engine: str, *targets: str, fails: bool = False, seconds: float = DEADLINE) -> Done:
        return self.run(*ENGINES[engine], *targets, fails=fails, seconds=seconds)

    def start(self, *command: str) -> Running:
        """Run in the background, in its own process group, as a shell does."""
        return Running(self, command)

    def git(self, *command: str) -> str:
        return self.run("git", *command).text

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "as it is")

    def copy(self, folder: Path) -> Clone:
        """The same with its history, results and DVC cache."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Clone(folder, self.env)

    def set(self, key: str, value: Any) -> None:
        """Change one value of params.yaml."""
        round_trip, path = YAML(), self.folder / "params.yaml"
        params = round_trip.load(path.read_text())
        *sections, name = key.split(".")
        place = params
        for section in sections:
            place = place[section]
        place[name] = value
        writing = path.with_suffix(".writing")
        with writing.open("w") as file:
            round_trip.dump(params, file)
        writing.rename(path)

    def with_default_settings(self) -> None:
        """The default settings in place of the smoke run's."""
        (self.folder / "params.yaml").write_text(default_params())

    def json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text())

    def json_lines(self, path: str) -> list[Any]:
        return [json.loads(line) for line in (self.folder / path).read_text().splitlines()]

    def weights(self, stage: str = "grpo") -> dict[str, bytes]:
        """The bytes of every weight file that `stage` left."""
        found = {path.name: path.read_bytes() for path in (self.folder / "models" / stage).glob("*.safetensors")}
        assert found, f"no weights in models/{stage}"
        return found

    def processes(self) -> dict[int, str]:
        """Command lines of the processes that work in the clone, by PID."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    folder = (entry / "cwd").readlink()
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:  # it ended meanwhile
                    continue
                if folder.is_relative_to(self.folder):
                    found[int(entry.name)] = command
        return found

    def process(self, pattern: str) -> int:
        """The one process whose command line has `pattern`."""
        found = [pid for pid, command in self.processes().items() if re.search(pattern, command)]
        assert len(found) == 1, f"{len(found)} processes with {pattern}: {self.processes()}"
        return found[0]

    def run_under_way(self) -> Path | None:
        """The folder of the GRPO that has not finished and was begun last."""
        runs = [path.parent for path in self.folder.glob(".checkpoints/grpo/*/recipe.json")]
        unfinished = [run for run in runs if not (run / "done").exists()]
        return max(unfinished, key=lambda run: (run / "recipe.json").stat().st_mtime, default=None)

    def last_step(self) -> int:
        """The last step that a GRPO under way has logged; -1 before the first."""
        run = self.run_under_way()
        log = run / "train.jsonl" if run else None
        lines = log.read_text().splitlines(keepends=True) if log and log.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        return json.loads(whole[-1])["step"] if whole else -1


class Running:
    """A command in the background."""

    def __init__(self, clone: Clone, command: Iterable[str]) -> None:
        self.clone = clone
        self.output = clone.folder.parent / f"{clone.folder.name}-{time.monotonic_ns()}.out"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                list(command),
                cwd=clone.folder,
                env=clone.env,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def reaches_step(self, step: int) -> None:
        """Return when GRPO has logged `step`."""
        wait(lambda: self.clone.last_step() >= step, f"step {step}", alive=self)

    def signal_group(self, number: signal.Signals) -> None:
        """What Ctrl-C in a terminal does: every process of the group gets the signal."""
        os.killpg(self.process.pid, number)

    def ends(self) -> Done:
        code = self.process.wait(DEADLINE)
        return Done(code, self.output.read_text())


def wait(reached: Callable[[], bool], what: str, *, alive: Running | None = None) -> None:
    end = time.monotonic() + DEADLINE
    while not reached():
        assert alive is None or alive.process.poll() is None, f"ended before {what}:\n{alive.output.read_text()}"
        assert time.monotonic() < end, f"no {what} in {DEADLINE} s"
        time.sleep(0.02)


def nothing_left(clone: Clone, ended: Iterable[int] = ()) -> None:
    """Return when no process works in the clone any more; those that were killed may take a moment.

    The processes `ended` must be gone altogether: DVC takes one that nobody has waited for as alive.
    """
    end = time.monotonic() + 60.0  # a trainer whose engine was killed ends its step and saves
    while left := clone.processes():
        assert time.monotonic() < end, f"left running: {left}"
        time.sleep(0.02)
    while any(Path(f"/proc/{pid}").exists() for pid in ended):
        if time.monotonic() > end + 30.0:
            pytest.skip("PID 1 of this machine does not wait for orphans (a container without --init)")
        time.sleep(0.02)


def under_each(task: Callable[[str], Result]) -> dict[str, Result]:
    """`task` for either engine, at the same time; what they return."""
    with ThreadPoolExecutor(len(ENGINES)) as pool:
        return dict(zip(ENGINES, pool.map(task, ENGINES), strict=True))


def new_clone(folder: Path, env: dict[str, str]) -> Clone:
    """The project's files as they are in the working copy, committed to a new repository, with the smoke parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():  # deleted, but not yet in git
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(smoke_params())
    (folder / "dvc.lock").unlink(missing_ok=True)
    clone = Clone(folder, env)
    clone.git("init", "--quiet", "--initial-branch", "main")
    clone.git("config", "user.name", "Test")
    clone.git("config", "user.email", "test@example.org")
    clone.commit()
    return clone


def environment(folder: Path) -> dict[str, str]:
    """The engines of this interpreter first on PATH, nothing of the user's settings, no network for models."""
    settings = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder / "dvc-site"),
        "DVC_GLOBAL_CONFIG_DIR": str(folder / "dvc-global"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "HF_HUB_OFFLINE": "1",
    }
    dropped = ("PYTHONPATH", "SNAKEMAKE_PROFILE", "DVC_ROOT", "DVC_STAGE")
    return {name: value for name, value in os.environ.items() if name not in dropped} | settings
