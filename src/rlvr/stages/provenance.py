"""What made an artifact or a run: parameters, inputs, code, versions, device. The same in equal runs."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.runtime.files import file_sha256
from rlvr.stages.code import code_hash
from rlvr.types import UserError

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

# These change nothing but rounding or bookkeeping: an interrupted run continues under another value of them.
BOOKKEEPING = (
    "memory.tokens_per_micro_batch", "memory.share_prompts", "memory.tile_rows", "memory.offload", "memory.kernels",
    "memory.keep_attention", "memory.logit_chunk_rows", "memory.optimizer_on_host", "grpo.checkpoint_every",
    "grpo.log_completions_every", "grpo.max_unscorable", "rollout.max_logp_gap", "rollout.max_rows", "rollout.vllm",
    "verifiers.workers", "verifiers.seconds",
)  # fmt: skip
CARD = "card.json"
COMMITS = Path(".pipeline/commits.json")
UNRELATED = ("datasets", "gguf", "pandas", "pyarrow", "snakemake", "dvc")  # versions that change no weight


def provenance(cfg: Config, *, device: str) -> dict[str, Any]:
    """`params` are the resolved values of the sections that the stage may read.

    No commit: it changes while the artifact stays the same, and every later stage would run again. note_commit keeps
    it.
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
    """The commit of the working copy, with `-dirty` where tracked files differ from it; None outside of git.

    dvc.lock does not count: every stage changes it.
    """
    head = _git("rev-parse", "HEAD")
    edited = head and _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    return f"{head}-dirty" if edited else head


def note_commit(stage: str) -> None:
    """Record at which commit a stage ran where DVC does not hash it: equal results of two commits are equal."""
    noted = json.loads(COMMITS.read_text(encoding="utf-8")) if COMMITS.exists() else {}
    write_json(COMMITS, noted | {stage: commit()})


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write card.json, the last file of a stage, with the SHA-256 of every other file in `folder`."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != CARD)
    write_json(folder / CARD, {**card, "files": {name: _hash(folder / name) for name in names}})


def check_files(folder: Path, stage: str) -> None:
    """Raises UserError, naming the file, where `folder` does not hold what `stage` wrote."""
    again = f"run `rlvr {stage}`, or `dvc checkout --force {folder}` to get them back"
    try:
        files: dict[str, str] = json.loads((folder / CARD).read_bytes()).get("files", {})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder / CARD} is damaged ({error}): {again}") from None
    for name, digest in files.items():
        if not (file := folder / name).is_file():
            raise UserError(f"{file} is missing, which {stage} wrote: {again}")
        if _hash(file) != digest:
            raise UserError(f"{file} is damaged or was edited: it is not what {stage} wrote; {again}")


def hash_files(*paths: Path) -> str:
    """One hash over names and contents of files, and of all files under folders."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.as_posix()}\n".encode())
            digest.update(bytes.fromhex(_hash(file)))
    return digest.hexdigest()


def _hash(file: Path) -> str:
    about = file.stat()
    return _sha256(file.absolute(), (about.st_mtime_ns, about.st_size, about.st_ino))


@cache
def _sha256(file: Path, _stamp: tuple[int, ...]) -> str:
    """The SHA-256 of the file as it is under `_stamp`: weights of gigabytes are read once."""
    return file_sha256(file)


def recipe(cfg: Config, stage: str, sections: Sequence[str], **inputs: str) -> dict[str, Any]:
    """The recipe of a run of `stage`; `inputs` are hashes of what it reads, by what a person calls it."""
    values = {name: value for name, value in cfg.model_dump().items() if name in sections}
    return {
        "settings": {name: value for name, value in flat(values) if not _is_bookkeeping(name)},
        "code": code_hash(stage),
        "versions": computing_versions(),
        **inputs,
    }


def computing_versions() -> dict[str, str | None]:
    """Versions of what computes weights and answers."""
    return {name: version for name, version in versions().items() if name not in UNRELATED}


def is_in_dvc(stage: str, output: Path, file: Path) -> bool:
    """Whether dvc.lock records `file`, byte for byte, as `output` of `stage`."""
    from ruamel.yaml import YAML  # noqa: PLC0415  (benchmarks/gpu runs without it)
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    try:
        lock = YAML(typ="safe", pure=True).load(Path("dvc.lock").read_text(encoding="utf-8"))
        outs = {out["path"]: out["md5"] for out in lock["stages"][stage]["outs"]}
        return bool(outs.get(output.as_posix()) == hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest())
    except (OSError, YAMLError, KeyError, TypeError, ValueError):
        return False


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value under its dotted name."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_bookkeeping(name: str) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in BOOKKEEPING)


def _git(*command: str) -> str | None:
    try:
        answer = subprocess.run(["git", *command], capture_output=True, encoding="utf-8", check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
