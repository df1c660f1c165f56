"""What every stage does first and last."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rlvr.config import Config, load_config
from rlvr.types import UserError


@contextmanager
def stage(name: str, sections: Sequence[str]) -> Iterator[Config]:
    """Give the parameters of `sections`, and only those: others cannot be read, so dvc.yaml cannot miss one.

    Threads are set before any arithmetic. Raises UserError at the end if these parameters were edited meanwhile:
    dvc.lock would record values that did not make this result.
    """
    cfg = load_config()
    _set_threads(cfg.compute.threads)
    quiet_transformers()
    yield cfg.restricted(sections)
    if load_config().digest(*sections) != cfg.digest(*sections):
        raise UserError(f"params.yaml was edited while {name} ran: run it again for a result of the new values")


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
