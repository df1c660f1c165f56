"""The four disjoint parts of a task's problems."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

from rlvr.types import Problem, UserError


@dataclass(frozen=True)
class Splits:
    """`train` for GRPO, `sft` with worked solutions, `dev` to stop the pre-finetune, `evaluation` held out."""

    train: list[Problem]
    sft: list[Problem]
    dev: list[Problem]
    evaluation: list[Problem]

    def items(self) -> list[tuple[str, list[Problem]]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


def check_disjoint(splits: Splits) -> None:
    """Raise UserError if a question, compared by normalised text, occurs twice in or between the splits."""
    where: dict[str, list[str]] = {}
    for name, problems in splits.items():
        for problem in problems:
            where.setdefault(" ".join(problem.question.lower().split()), []).append(name)
    repeated = {question: names for question, names in where.items() if len(names) > 1}
    if repeated:
        question, names = next(iter(repeated.items()))
        pairs = Counter(" and ".join(sorted(set(names))) for names in repeated.values())
        raise UserError(
            f"{len(repeated)} question(s) occur more than once ({dict(pairs)}), for example {question!r} in "
            f"{', '.join(names)}: remove the duplicates, or what is measured on them is memory"
        )
