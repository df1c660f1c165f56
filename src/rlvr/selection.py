"""The four splits out of a task's problems: as many as asked for, and no question twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rlvr.tasks import Pools
from rlvr.tasks.text import normalized
from rlvr.types import Problem, UserError

ORDER = ("evaluation", "dev", "sft", "train")  # so that what is held out does not depend on what is trained on


def select(
    pools: Pools, wanted: Mapping[str, int | None]
) -> tuple[dict[str, list[Problem]], dict[str, dict[str, int]]]:
    """The splits, and for each of them how many problems were passed over for which reason.

    `wanted` is the size of each split; None takes all that are left. Raises UserError if there are too few problems.
    """
    first: dict[str, str] = {}  # the split in which a question was first taken
    splits, left_out = {}, {}
    training = pools.training
    for name in ORDER:
        held_out = name == "evaluation" and pools.evaluation is not None
        pool = pools.evaluation if held_out else training
        assert pool is not None
        splits[name], rest, reasons = _take(pool, name, wanted[name], first)
        training = training if held_out else rest
        left_out[name] = dict(reasons)
    return {name: splits[name] for name in wanted}, left_out


def _take(
    pool: list[Problem], name: str, count: int | None, first: dict[str, str]
) -> tuple[list[Problem], list[Problem], Counter[str]]:
    taken: list[Problem] = []
    reasons: Counter[str] = Counter()
    queue = iter(pool)
    while len(taken) != count and (problem := next(queue, None)):
        question = normalized(problem.question)
        if question in first:
            reasons[f"question is in {first[question]}"] += 1
            continue
        first[question] = name
        taken.append(problem)
    if len(taken) < (count or 1):
        raise UserError(
            f"prepare.{name}_problems asks for {count or 'all that are left'}, and there are {len(taken)} "
            f"of {len(pool)} (left out: {dict(reasons) or 'none'}): ask for fewer, in the other splits too"
        )
    return taken, list(queue), reasons
