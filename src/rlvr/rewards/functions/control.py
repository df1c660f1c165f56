"""A control: a reward under which nothing may improve."""

from __future__ import annotations

import hashlib

from rlvr.rewards.sample import Sample


def random(sample: Sample, *, low: float, high: float) -> float:
    """A number from `low` up to `high` that depends on problem and text, not on right or wrong.

    Source: docs/decisions/0003.
    """
    digest = hashlib.sha256(f"{sample.problem.id}\n{sample.completion.text}".encode("utf-8", "surrogatepass")).digest()
    return low + (high - low) * int.from_bytes(digest[:8], "big") / 2**64
