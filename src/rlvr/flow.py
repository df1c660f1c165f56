"""dvc.yaml is the only definition of the pipeline and DVC the only judge of what is stale; this shows both to Snakemake.

A rule's output is a stamp that mirrors `dvc status`; Snakemake never touches an artifact. Run as a program, it is
the job of a rule: `dvc repro --single-item STAGE`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rlvr.lifetime import die_with_parent, ignore_interrupts

STAMPS = Path(".pipeline")
CLEAN_TIME = 1_000_000_000  # all stamps of clean stages share one date, so that none is newer than another


class DvcError(RuntimeError):
    """DVC could not say what is stale; the message is DVC's own."""


@dataclass
class Stage:
    """One stage: `sources` are files that no stage makes, `upstream` the stages whose outputs it reads."""

    name: str
    description: str
    threads: int
    resources: dict[str, Any]
    sources: list[str] = field(default_factory=list)
    upstream: list[str] = field(default_factory=list)

    @property
    def stamp(self) -> str:
        return str(STAMPS / f"{self.name}.stamp")


def load(path: Path = Path("dvc.yaml")) -> dict[str, Stage]:
    """The stages of dvc.yaml with the edges between them."""
    specs = YAML(typ="safe", pure=True).load(path.read_text())["stages"]
    owner = {
        out: name for name, spec in specs.items() for kind in ("outs", "metrics", "plots") for out in _paths(spec, kind)
    }
    stages = {}
    for name, spec in specs.items():
        meta = spec.get("meta", {}).get("snakemake", {})
        stage = Stage(name, spec["desc"], meta.get("threads", 1), meta.get("resources", {}))
        for dep in _paths(spec, "deps"):
            makers = [owner[str(part)] for part in (Path(dep), *Path(dep).parents) if str(part) in owner]
            if not makers:
                stage.sources.append(dep)
            elif makers[0] not in stage.upstream:
                stage.upstream.append(makers[0])
        stages[name] = stage
    return stages


def sync(stages: dict[str, Stage]) -> dict[str, str]:
    """Make the stamps say what `dvc status` says; reasons by stale stage. Raises DvcError."""
    status = dvc_status()
    STAMPS.mkdir(exist_ok=True)
    for stage in stages.values():
        stamp = Path(stage.stamp)
        if stage.name in status:
            stamp.unlink(missing_ok=True)
        else:
            stamp.touch()
            os.utime(stamp, (CLEAN_TIME, CLEAN_TIME))
    return {name: _reason(entries) for name, entries in status.items() if name in stages}


def dvc_status() -> dict[str, list[Any]]:
    """What `dvc status` finds changed, by stage. Raises DvcError, with the remedy when another run holds the lock."""
    done = subprocess.run(["dvc", "status", "--json"], capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        message = (done.stderr or done.stdout).strip()
        if "lock" in message.lower():
            message += "\nAnother dvc or snakemake is running in this folder: wait for it or stop it."
        raise DvcError(f"dvc status failed:\n{message}")
    changed: dict[str, list[Any]] = json.loads(done.stdout or "{}")
    return changed


def run(stage: str, log: Path, *, force: bool) -> int:
    """Reproduce one stage, copying its output to `log`; DVC's exit code. It ends when this process is killed.

    Jobs that run in parallel meet DVC's lock, hence --wait-for-lock.
    """
    command = ["dvc", "--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file, ignore_interrupts():  # Ctrl-C reaches the stage itself, which stops after a checkpoint
        dvc = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(), preexec_fn=die_with_parent
        )
        assert dvc.stdout is not None
        while chunk := dvc.stdout.read1():  # type: ignore[attr-defined]
            for target in (sys.stdout.buffer, file):
                target.write(chunk)
                target.flush()
        return dvc.wait()


def environment() -> dict[str, str]:
    """This process's environment with the interpreter's folder first on PATH: stages find the same python and dvc."""
    here = str(Path(sys.executable).parent)
    return os.environ | {"PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}"}


def _paths(spec: dict[str, Any], kind: str) -> list[str]:
    return [next(iter(item)) if isinstance(item, dict) else item for item in spec.get(kind, [])]


def _reason(entries: list[Any]) -> str:
    """One line out of what `dvc status --json` says of a stage."""
    reasons = []
    for entry in entries:
        for what, items in entry.items() if isinstance(entry, dict) else [(entry, {})]:
            for path, how in items.items():
                reasons += (
                    [f"{path}:{key} {change}" for key, change in how.items()]
                    if isinstance(how, dict)
                    else [f"{path} {how}"]
                )
            reasons += [what] if not items else []
    return ", ".join(reasons)


if __name__ == "__main__":
    die_with_parent()
    name, log_path, *flags = sys.argv[1:]
    sys.exit(run(name, Path(log_path), force="--force" in flags))
