"""What every stage does first and last."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rlvr.config import Config, load_config
from rlvr.runtime.lock import locked
from rlvr.runtime.machine import check_folder, check_writable
from rlvr.runtime.messages import note, warn
from rlvr.stages.code import code_hash, copy_of_user, files_of_the_user
from rlvr.stages.provenance import CARD, check_files, hash_files
from rlvr.types import UserError

LOCKS = Path(".checkpoints")
TRAINS, READ_USER, SCORE = ("sft", "grpo"), ("grpo", "evaluate"), ("prepare", "sft", "grpo", "evaluate")
LEAVES = [Path(name) for name in (".checkpoints", "models", "logs", "metrics")]
WRITES = {
    "prepare": [Path(".checkpoints"), Path("data")],
    "sft": LEAVES,
    "grpo": LEAVES,
    "evaluate": [Path(name) for name in (".checkpoints", "evaluations", "metrics")],
    "report": [Path("reports")],
}
PREPARED, MODELS = Path("data/prepared"), Path("models")
READS = {
    "sft": [PREPARED],
    "grpo": [PREPARED, MODELS / "sft"],
    "evaluate": [PREPARED, MODELS],
}
MADE_BY = {"prepare": PREPARED / CARD, "sft": MODELS / "sft" / CARD}  # written last


@contextmanager
def stage(name: str, sections: Sequence[str], *, after: Sequence[str] = ()) -> Iterator[Config]:
    """Give the parameters of `sections`, and only those: others cannot be read, so dvc.yaml cannot miss one.

    Threads are set before any arithmetic. Raises UserError where a stage of `after` has not run or another process runs
    this one, and at the end if these parameters, the code or what it reads were edited meanwhile: dvc.lock would record
    what did not make this result.
    """
    check_folder()
    cfg = load_config()
    for other in after:
        if not MADE_BY[other].is_file():
            raise UserError(
                f"{name} reads what {other} makes, and {MADE_BY[other]} does not exist: run `rlvr {other}` first, or "
                "`snakemake --cores 1` for the whole pipeline"
            )
        check_files(MADE_BY[other].parent, other)
    check_writable(WRITES.get(name, ()))
    _set_threads(cfg.compute.threads)
    quiet_transformers()
    edited = edits(name, cfg, sections)
    is_alone = locked(LOCKS, name) if name in WRITES and name not in TRAINS else nullcontext()  # a run has its own lock
    with is_alone, copy_of_user() if name in SCORE else nullcontext():
        yield cfg.restricted(sections)
    if edit := edited():
        advice = "; restore the old values and no step is trained again" if name in TRAINS else ""
        raise UserError(f"{edit} while {name} ran: run it again for a result of the new values{advice}")


def edits(name: str, cfg: Config, sections: Sequence[str]) -> Callable[[], str | None]:
    """A function that says what has been edited from now on, of what decides the result of a stage."""
    code, user = code_hash(name), hash_files(*files_of_the_user())
    read = {folder: hash_files(folder) for folder in READS.get(name, ()) if folder.is_dir()}

    def found() -> str | None:
        try:
            if load_config().digest(*sections) != cfg.digest(*sections):
                return "params.yaml was edited"
            if code_hash(name) != code:
                return "the code of this stage was edited"
            if name in READ_USER and hash_files(*files_of_the_user()) != user:
                return "user/ was edited"
            for folder, digest in read.items():
                if hash_files(folder) != digest:
                    return f"{folder} was edited"
        except UserError as error:
            return f"params.yaml was edited ({str(error).splitlines()[0]})"
        except OSError as error:  # an editor replaces a file while it is read
            return f"{error.filename} was edited"
        return None

    return found


def tell_edits(edited: Callable[[], str | None]) -> Callable[[], None]:
    """A function that says once what `edited` finds, and once that it was undone."""
    said: str | None = None

    def tell() -> None:
        nonlocal said
        if (edit := edited()) == said:
            return
        said = edit
        if edit is None:
            note("the edit was undone")
        else:
            warn(
                f"{edit}: this run continues with what it began with. Undo the edit before the run ends, or the stage "
                "fails; training done so far is kept."
            )

    return tell


def _set_threads(threads: int) -> None:
    """What an engine exports must not change the bits: the environment for a torch that is loaded later, or torch."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if torch := sys.modules.get("torch"):  # a stage that computes nothing does not wait for its import
        torch.set_num_threads(threads)


def quiet_transformers() -> None:
    """No telemetry, and no progress bars for loads that take milliseconds."""
    os.environ |= {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if "transformers" in sys.modules:
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()
