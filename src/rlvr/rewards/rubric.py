"""A rubric: the weighted reward functions of params.yaml, applied to groups."""
# P prompts · G completions per prompt · K reward functions

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlvr.chat import Tags, extract_answer, is_correct
from rlvr.rewards.functions import FUNCTIONS

if TYPE_CHECKING:
    from rlvr.types import Group


class RewardSetting(Protocol):
    @property
    def weight(self) -> float: ...
    @property
    def options(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Scores:
    """`points` [P][G][K] in the order of `names`; `correct` [P][G]: well-formed with the right answer.

    Points are None where a function does not apply and NaN where it could not judge by our own fault.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    points: list[list[list[float | None]]]
    correct: list[list[bool]]


def score(groups: Sequence[Group], rubric: Mapping[str, RewardSetting], tags: Tags) -> Scores:
    """Apply every reward function of `rubric` to every completion, and the strict verdict beside them."""
    functions = [(FUNCTIONS[name], setting.options) for name, setting in rubric.items()]
    points = [
        [
            [function(completion, group.prompt.problem, tags, **options) for function, options in functions]
            for completion in group.completions
        ]
        for group in groups
    ]
    correct = [
        [is_correct(extract_answer(c.text, tags), group.prompt.problem.answer) for c in group.completions]
        for group in groups
    ]
    return Scores(tuple(rubric), tuple(setting.weight for setting in rubric.values()), points, correct)
