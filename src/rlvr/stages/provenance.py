"""What made an artifact: parameters, versions, device. Nothing that changes between equal runs."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlvr.config import Config

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "tokenizers",
    "gguf",
    "datasets",
    "pandas",
    "pyarrow",
    "snakemake",
    "dvc",
    "triton",
)


def provenance(cfg: Config, *, device: str) -> dict[str, Any]:
    """`params` are the resolved values of the sections that the stage may read.

    No commit: it changes while the artifact stays the same, and every later stage would run again. The commit that
    holds dvc.lock is the one that made it.
    """
    return {
        "params": cfg.model_dump(),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
    }


def versions() -> dict[str, str | None]:
    """Python and the packages that can change a result; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def commit() -> str | None:
    """The commit of the working copy, or None outside of git."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def hash_files(*paths: Path) -> str:
    """One hash over names and contents of files, and of all files under folders."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.as_posix()}\n".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
