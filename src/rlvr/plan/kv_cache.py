"""How much memory a rollout engine may take for keys and values."""

from __future__ import annotations

from rlvr.plan.planner import Plan
from rlvr.plan.predict import kv_cache_bytes

BLOCK_TOKENS = 128  # the largest unit in which engines hand the cache out
HOST_SHARE = 4  # of a host's memory, the cache takes one part in so many at most: other programs live there, too


def engine_cache_bytes(plan: Plan, *, rows: int) -> int:
    """Room for the keys and values of `rows` sequences, as far as the plan's rollout leaves it.

    At least one sequence: a plan that fits has room for that.
    """
    blocks = -(-plan.settings.context // BLOCK_TOKENS)
    sequence_bytes = blocks * BLOCK_TOKENS * plan.shape.kv_bytes_per_token(plan.settings.cached_bytes)
    planned = kv_cache_bytes(plan.shape, plan.settings, plan.choice.kv_sequences)
    free = plan.card.memory_bytes - plan.prediction.device_bytes("rollout") + planned
    if not plan.settings.is_cuda:
        free = min(free, plan.card.memory_bytes // HOST_SHARE)
    return max(sequence_bytes, min(rows * sequence_bytes, free))
