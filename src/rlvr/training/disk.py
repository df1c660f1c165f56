"""Whether there is room for what a run will write: before the first step, not after the last."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.plan.cards import GIB
from rlvr.types import OptimizerKind, UserError

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS, COPIES = 3, 2  # two that are kept and the one that is being written; the model and DVC's copy of it


def check_room(folder: Path, weights: Iterable[Tensor], optimizer: OptimizerKind) -> None:
    """Raises UserError where the disk of `folder` has less room than checkpoints and results of `weights` need."""
    needed = room(weights, optimizer) - sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"this run writes up to {needed / GIB:.2f} GiB ({CHECKPOINTS} checkpoints at a time, then the model and "
            f"DVC's copy of it), and the disk of {folder} has {free / GIB:.2f} GiB free: free some, or train an "
            "adapter (model.adapter: lora), whose checkpoints are small"
        )


def room(weights: Iterable[Tensor], optimizer: OptimizerKind) -> int:
    """Bytes: two states a weight, in its own type or in 8 bits with a scale for each 256."""
    sizes = [(weight.nbytes, weight.numel()) for weight in weights]
    model = sum(nbytes for nbytes, _ in sizes)
    states = 2 * model if optimizer == "adamw" else sum(2 * count + count // 32 for _, count in sizes)
    return CHECKPOINTS * (model + states) + COPIES * model
