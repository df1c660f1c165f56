"""Tasks: where problems come from. Each module has `load(prepare, seed) -> Splits`."""

from rlvr.tasks import arithmetic
from rlvr.tasks.splits import Splits

TASKS = {"arithmetic": arithmetic.load}

__all__ = ["TASKS", "Splits"]
