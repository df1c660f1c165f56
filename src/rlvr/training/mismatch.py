"""The rollout engine and the trainer must agree on what the sampled tokens were worth; how far apart they may be."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlvr.loss import LossStats
from rlvr.types import StepFailed

LIMITS = {torch.float32: 1.0e-3}  # nats; rounding alone gives below 1e-5
LIMIT_16_BITS = 0.1  # rounding alone gives about 0.05


class Mismatch(StepFailed):
    """The engine sampled from something else than the trainer's policy."""


def limit_of(setting: float | str | None, dtype: torch.dtype) -> float:
    """`rollout.max_logp_gap` as a number for weights of `dtype`: nats, infinite where the setting is None."""
    if setting is None:
        return float("inf")
    return LIMITS.get(dtype, LIMIT_16_BITS) if isinstance(setting, str) else setting


def mean_gap(statistics: Sequence[LossStats]) -> float:
    """The mean over tokens of |log-probability of the trainer - that of the engine|, in nats."""
    sums = torch.stack([stats.sums for stats in statistics]).sum(0).tolist()
    totals = dict(zip(LossStats.NAMES, sums, strict=True))
    return float(totals["logp_gap"] / totals["tokens"])


def check(statistics: Sequence[LossStats], *, limit: float) -> None:
    """Raises Mismatch, with what to look at, when the mean gap of the computed tokens is above `limit` or no number."""
    if not statistics:
        return
    gap = mean_gap(statistics)
    if gap <= limit:
        return
    largest = max(stats.logp_gap_max.item() for stats in statistics)
    raise Mismatch(
        "the rollout engine and the trainer disagree: their log-probabilities of the sampled tokens are "
        f"{gap:.2g} nats apart on average ({largest:.2g} at most), more than rollout.max_logp_gap allows "
        f"({limit:g}). Look at, in this order: whether the engine got this step's weights and forgot what it had "
        "cached of older ones; the temperature on both sides; the type of weights and head (compute.dtype; in 16 bits, "
        "rollout.vllm.head_dtype float32 makes the gap smaller). rollout.sampler native samples with the trainer's own "
        "weights"
    )
