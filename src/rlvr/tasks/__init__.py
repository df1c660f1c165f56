"""Tasks: where problems come from. Each module has `load(prepare, seed) -> Pools`."""

from rlvr.tasks import arithmetic, gsm8k, records
from rlvr.tasks.pools import Pools, question_key

TASKS = {"arithmetic": arithmetic.load, "gsm8k": gsm8k.load, "records": records.load}

__all__ = ["TASKS", "Pools", "question_key"]
