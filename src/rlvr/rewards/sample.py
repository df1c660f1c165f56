"""One completion with everything that a reward function may look at."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.chat import Reading, Tags
from rlvr.types import Problem
from rlvr.verifiers.verdict import Verdict


@dataclass(frozen=True)
class Sample:
    """`text` is the completion (the opening tag included where the prompt holds it, the end of sequence not).

    `reading` is that text read by its tags, `verdict` what the run's verifier says of the answer, or the verifier that
    the reward names.
    """

    text: str
    num_tokens: int
    is_truncated: bool
    problem: Problem
    tags: Tags
    reading: Reading
    verdict: Verdict
