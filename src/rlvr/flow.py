"""Show the pipeline to Snakemake: dvc.yaml alone defines it, and DVC alone decides which stages are stale.

The output of a rule is a stamp that mirrors `dvc status`; Snakemake never touches an artifact. Run as a program, this
module is the job of a rule: `dvc repro --single-item STAGE`, then the stamp.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from rlvr.runtime.lifetime import die_with_parent, ignore_interrupts, in_child, is_ignored
from rlvr.runtime.machine import speak_utf8

FOLDER = Path(".pipeline")  # stamps, logs and benchmarks
CLEAN_TIME = 1_000_000_000  # stamps of clean stages share one date, so that none is newer than another
DVC_LOCKS = Path(".dvc/tmp/rwlock")
REASONS_SHOWN = 4
HINTS = (  # lines about git and remotes that DVC prints after every call
    "To track the changes with git, run:",
    "To enable auto staging, run:",
    "\tgit add ",
    "\tdvc config core.autostage true",
    "Use `dvc push` to send your updates to remote storage.",
)


class DvcError(RuntimeError):
    """DVC failed to report which stages are stale; the message is DVC's."""


@dataclass
class Stage:
    """One stage. `sources` are files that no stage writes, `upstream` the stages whose outputs it reads."""

    name: str
    description: str
    threads: int
    resources: dict[str, Any]
    sources: list[str] = field(default_factory=list)
    upstream: list[str] = field(default_factory=list)

    @property
    def stamp(self) -> str:
        return str(FOLDER / f"{self.name}.stamp")

    @property
    def log(self) -> str:
        return str(FOLDER / "logs" / f"{self.name}.log")

    @property
    def benchmark(self) -> str:
        return str(FOLDER / "benchmarks" / f"{self.name}.tsv")


def load(path: Path = Path("dvc.yaml")) -> dict[str, Stage]:
    """The stages of dvc.yaml with the edges between them."""
    specs = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["stages"]
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
    """Set the stamps to match `dvc status`; return the reason for each stale stage. Raises DvcError."""
    status = dvc_status()
    FOLDER.mkdir(exist_ok=True)
    for stage in stages.values():
        stamp = Path(stage.stamp)
        if stage.name in status:
            stamp.unlink(missing_ok=True)
        else:
            stamp.touch()
            os.utime(stamp, (CLEAN_TIME, CLEAN_TIME))
    return {name: _reason(entries) for name, entries in status.items() if name in stages}


def dvc_status() -> dict[str, list[Any]]:
    """The changes that `dvc status` reports, by stage. Raises DvcError with the remedy."""
    done = _ask_status()
    if done.returncode and _is_stale(done.stderr):
        DVC_LOCKS.unlink(missing_ok=True)  # DVC takes its holders for alive and asks the user to do this
        done = _ask_status()
    if done.returncode:
        raise DvcError(_explain((done.stderr or done.stdout).strip()))
    changed: dict[str, list[Any]] = json.loads(done.stdout or "{}")
    if not changed and _is_ignored():
        raise DvcError(
            "dvc.yaml is ignored by git, so DVC sees no stages: a repository around this folder ignores it. Run "
            "`git init` here, or take the folder out of that repository's .gitignore"
        )
    return changed


def run(stage: Stage, *, force: bool) -> int:
    """Reproduce one stage and copy its output to its log; return DVC's exit code. DVC is killed with this process.

    SIGTERM and SIGHUP are passed on to DVC, whose end asks the stage to stop after a checkpoint; this process waits for
    that. Parallel jobs compete for DVC's lock, hence --wait-for-lock.
    """
    command = ["dvc", "--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage.name]
    log = Path(stage.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as file,
        ignore_interrupts(),
    ):  # Ctrl-C reaches the stage itself, which stops after a checkpoint
        dvc = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment(),
            preexec_fn=in_child,  # noqa: PLW1509  (no threads here)
        )
        assert dvc.stdout is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            if not is_ignored(number):  # as under nohup
                signal.signal(number, lambda *_: dvc.terminate())
        for line in dvc.stdout:
            if line.strip() and not line.startswith(HINTS):
                for target in (sys.stdout, file):
                    target.write(line)
                    target.flush()
        return dvc.wait()


def end_jobs() -> None:
    """Ask the jobs of this Snakemake to end. At SIGTERM it only starts no others, and waits for them for hours."""
    for job in psutil.Process().children():
        with suppress(psutil.Error):
            if "rlvr.flow" in job.cmdline():
                job.terminate()


def environment() -> dict[str, str]:
    """This interpreter's folder first on PATH, so that stages use the same python and dvc; UTF-8 in any locale."""
    here = str(Path(sys.executable).parent)
    return os.environ | {"PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUTF8": "1"}


def _paths(spec: dict[str, Any], kind: str) -> list[str]:
    return [next(iter(item)) if isinstance(item, dict) else item for item in spec.get(kind, [])]


def _reason(entries: list[Any]) -> str:
    """The changes of a stage in `dvc status --json` as one line, parameters first."""
    reasons: list[str] = []
    for entry in entries:
        for what, items in entry.items() if isinstance(entry, dict) else [(entry, {})]:
            if items.get("params.yaml") == "new":
                return "it has not run yet"
            for path, how in items.items():
                if isinstance(how, dict):
                    reasons[:0] = [f"{path}:{key} {change}" for key, change in how.items()]
                else:
                    reasons.append(f"{path} {how}")
            reasons += [what] if not items else []
    more = len(reasons) - REASONS_SHOWN
    return ", ".join(reasons[:REASONS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _ask_status() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["dvc", "status", "--json"], capture_output=True, encoding="utf-8", check=False, env=environment()
    )


def _is_ignored() -> bool:
    done = subprocess.run(["git", "check-ignore", "-q", "dvc.yaml"], capture_output=True, check=False)
    return done.returncode == 0


def _lock_holders(message: str) -> dict[int, str]:
    """Command lines by PID of the processes that hold DVC's lock, according to its message."""
    return {int(pid): command for pid, command in re.findall(r"\(PID (\d+)\): (.*)", message)}


def _is_stale(message: str) -> bool:
    """Whether nobody holds the lock that DVC complains about: damaged in a crash, or its processes are gone."""
    if "RWLock-file" in message:
        return not any(map(_is_dvc_here, psutil.pids()))
    holders = _lock_holders(message)
    return bool(holders) and not any(map(_is_dvc, holders))


def _is_dvc(pid: int) -> bool:
    """Whether the process runs DVC still: a number is given again after a restart, and a zombie holds nothing."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and any("dvc" in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _is_dvc_here(pid: int) -> bool:
    try:
        return _is_dvc(pid) and Path(psutil.Process(pid).cwd()) == Path.cwd()
    except psutil.Error:
        return False


def _explain(message: str) -> str:
    """DVC's error, or the holder of its lock, and what to do."""
    if holders := _lock_holders(message):
        who = ", ".join(f"process {pid} ({command})" for pid, command in holders.items())
        return f"{who} is running this pipeline in this folder: wait for it or stop it"
    if "RWLock-file" in message:
        return f"{message}\nA dvc is running in this folder. When it has ended, remove {DVC_LOCKS}."
    if "lock" in message.lower():
        return f"{message}\nAnother dvc or snakemake is running in this folder: wait for it or stop it."
    if "not a git repository" in message:
        return f"{message}\nDVC keeps results by commit: run `git init`, or clone the project instead of copying it."
    if match := re.search(r"\[Errno (?:2|13|30)\] ([^:]*): '([^']*)'", message):
        return (
            f"DVC cannot write to {match[2]} ({match[1]}): set DVC_SITE_CACHE_DIR to a folder that you may write to, "
            "or run where you may write to the project"
        )
    return f"dvc status failed:\n{message}"


if __name__ == "__main__":
    die_with_parent()
    speak_utf8()
    job = load()[sys.argv[1]]
    code = run(job, force="--force" in sys.argv[2:])
    if code == 0:
        Path(job.stamp).touch()
    sys.exit(code)
