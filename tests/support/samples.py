"""Samples for the tests of rewards: a completion, its problem with the gold, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvr.chat import TAGS, Tags, read
from rlvr.rewards.sample import Sample
from rlvr.types import Answered, Problem
from rlvr.verifiers import number
from rlvr.verifiers.verdict import MISSING, Verdict, wrong

THINK = TAGS["think"]


def well_formed(answer: str, reasoning: str = "because", tags: Tags = THINK) -> str:
    return f"{tags.reasoning_start}{reasoning}{tags.reasoning_end}{tags.answer_start}{answer}{tags.answer_end}"


def sample_of(
    text: str,
    *,
    gold: str = "85",
    columns: Mapping[str, Any] | None = None,
    num_tokens: int = 20,
    tags: Tags = THINK,
    verdict: Verdict | None = None,
    solution: str = "",
) -> Sample:
    """`verdict` is by default what the verifier `number` says."""
    reading = read(text, tags)
    found = wrong(MISSING) if reading.answer is None else number.verify(reading.answer, gold, tolerance=0.0)
    problem = Problem("p", "How much?", gold, "", 1, solution, columns or {})
    return Sample(Answered(text, num_tokens, False), problem, tags, reading, verdict or found)
