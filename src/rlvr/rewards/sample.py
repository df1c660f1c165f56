"""The input of a reward function: one completion with its problem, its reading and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.chat import Reading, Tags
from rlvr.types import Answered, Problem
from rlvr.verifiers.verdict import Verdict


@dataclass(frozen=True)
class Sample:
    """`completion.text` includes the opening tag where the prompt holds it, and excludes the end of sequence.

    `reading` is that text read by its tags. `verdict` is the answer's, by the run's verifier or the one that the reward
    names.
    """

    completion: Answered
    problem: Problem
    tags: Tags
    reading: Reading
    verdict: Verdict
