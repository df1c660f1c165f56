"""The problems of a task, from which the splits are drawn."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
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

    def without(self, ids: Container[str]) -> Pools:
        """The pools without the problems of these ids."""
        training = [p for p in self.training if p.id not in ids]
        evaluation = None if self.evaluation is None else [p for p in self.evaluation if p.id not in ids]
        return replace(self, training=training, evaluation=evaluation)

    def place(self, identity: str) -> str:
        """Where the problem of this id stands: the source of the rows, if there is one, and its id there."""
        is_held_out = any(p.id == identity for p in self.evaluation or [])
        origin = self.origin.get("evaluation", self.origin) if is_held_out else self.origin
        return f"{origin.get('source', '')} {identity}".strip()


def question_key(problem: Problem) -> str:
    """What two problems that ask the same have in common: the normal form of question and turns before it."""
    turns = (message["content"] for message in problem.context if message["role"] != "system")
    return normalized("\n".join([*turns, problem.question]))


def check_distinct(problems: list[Problem]) -> None:
    """Raise UserError if a question, compared by normalised text, occurs twice."""
    first: dict[str, Problem] = {}
    repeated = [p for p in problems if first.setdefault(question_key(p), p) is not p]
    if repeated:
        raise UserError(
            f"{len(repeated)} question(s) occur more than once, for example {repeated[0].question!r}. Remove the "
            "duplicates: scores on them would measure memory"
        )
