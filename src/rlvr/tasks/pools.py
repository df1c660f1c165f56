"""The problems of a task, from which the splits are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlvr.tasks.text import normalized
from rlvr.types import Problem, UserError


@dataclass(frozen=True)
class Pools:
    """Problems in seeded order; the splits are drawn from the front.

    `evaluation` is None if the data has no held-out part. Evaluation is then drawn from `training`, before the other
    splits. `origin` goes into the card: where the problems come from and what was filtered out.
    """

    training: list[Problem]
    evaluation: list[Problem] | None
    origin: dict[str, Any]

    def problems(self) -> list[Problem]:
        return [*self.training, *(self.evaluation or [])]


def check_distinct(problems: list[Problem]) -> None:
    """Raise UserError if a question, compared by normalised text, occurs twice."""
    first: dict[str, Problem] = {}
    repeated = [p for p in problems if first.setdefault(normalized(p.question), p) is not p]
    if repeated:
        raise UserError(
            f"{len(repeated)} question(s) occur more than once, for example {repeated[0].question!r}. Remove the "
            "duplicates: scores on them would measure memory"
        )
