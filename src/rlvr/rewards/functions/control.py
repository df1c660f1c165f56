"""A control: a reward that must not lead to any improvement."""

from __future__ import annotations

import hashlib

from rlvr.rewards.sample import Sample


def random(sample: Sample, *, low: float, high: float) -> float:
    """A number from `low` to `high` that depends on problem and text, but not on right or wrong.

    Source: docs/decisions/0003.
    """
    digest = hashlib.sha256(f"{sample.problem.id}\n{sample.completion.text}".encode("utf-8", "surrogatepass")).digest()
    return low + (high - low) * int.from_bytes(digest[:8], "big") / 2**64
