"""What every stage does first and last."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rlvr.config import Config, load_config
from rlvr.lifetime import die_with_parent
from rlvr.types import UserError


@contextmanager
def stage(name: str, sections: Sequence[str]) -> Iterator[Config]:
    """Give the parameters of `sections`, and only those: others cannot be read, so dvc.yaml cannot miss one.

    Threads are set before any arithmetic. Raises UserError at the end if these parameters were edited meanwhile:
    dvc.lock would record values that did not make this result.
    """
    die_with_parent()
    cfg = load_config()
    _set_threads(cfg.compute.threads)
    quiet_transformers()
    yield cfg.restricted(sections)
    if load_config().digest(*sections) != cfg.digest(*sections):
        raise UserError(f"params.yaml was edited while {name} ran: run it again for a result of the new values")


def _set_threads(threads: int) -> None:
    """Environment first, torch next: what an engine exports must not change the bits."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)


def quiet_transformers() -> None:
    """No telemetry, and no progress bars for loads that take milliseconds."""
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
