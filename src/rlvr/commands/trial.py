"""Scores of a rubric for completions from a table, before any GPU hour is spent."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlvr.rewards.rubric import Scores
from rlvr.tasks.cells import texts_at
from rlvr.types import Answered, Problem, UserError
from rlvr.verifiers.verdict import Verdict

CompletionRow = Mapping[str, Any]
CompletionGroup = tuple[Problem, list[Answered]]

FIELDS = frozenset({"id", "question", "answer", "working", "solution", "level"})
OF_COMPLETION = frozenset(
    {"completion", "text", "problem_id", "num_tokens", "is_truncated", "completion_reasoning", "completion_answer"}
)
OF_RUN = frozenset({"step", "correct", "verdict", "reward", "advantage"})  # and reward/…, in logs/completions


@dataclass(frozen=True)
class Summary:
    """One reward function over all completions. The numbers are None if it applied to none of them."""

    name: str
    weight: float
    mean: float | None
    lowest: float | None
    highest: float | None
    not_applicable: int
    unscorable: int


def group_by_problem(
    rows: Sequence[CompletionRow], known: Sequence[Problem], *, file: str, count_tokens: Callable[[str], int]
) -> list[CompletionGroup]:
    """The completions of a table, grouped by problem, in the order of the table.

    A row has completion (or text), and one of: the id of a problem in `known` (or problem_id), the question of one, or
    its own question and answer, with other columns. Raises UserError naming `file` and the row.
    """
    by_id, by_question = ({getattr(problem, name): problem for problem in known} for name in ("id", "question"))
    groups: dict[str, CompletionGroup] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{file} row {number}"
        problem = _problem(row, by_id, by_question, place)
        key = json.dumps(asdict(problem), sort_keys=True, default=str)
        groups.setdefault(key, (problem, []))[1].append(_answered(row, place, count_tokens))
    return list(groups.values())


def _answered(row: CompletionRow, place: str, count_tokens: Callable[[str], int]) -> Answered:
    text = row.get("completion", row.get("text"))
    if isinstance(text, list):
        raise UserError(
            f"{place}: the completion is a list (of {len(text)} chat messages?), not a text. Put the content of the "
            "model's own message into the column completion"
        )
    if not isinstance(text, str):
        raise UserError(
            f"{place}: no completion. Put the model's text into a column completion (or text, as in "
            f"logs/completions). The columns are {', '.join(row)}"
        )
    try:
        num_tokens = count_tokens(text) if _is_empty(row.get("num_tokens")) else int(row["num_tokens"])
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{place}: num_tokens {row['num_tokens']!r} is not a whole number") from None
    return Answered(text, num_tokens, str(row.get("is_truncated", False)).lower() in ("true", "1"))


def _problem(
    row: CompletionRow, by_id: Mapping[str, Problem], by_question: Mapping[str, Problem], place: str
) -> Problem:
    name = row.get("problem_id", row.get("id"))
    question, answer = row.get("question"), row.get("answer")
    problem = by_id.get(str(name))
    if problem is not None and (_is_empty(question) or question == problem.question):
        return problem
    if not _is_empty(question) and not _is_empty(answer):
        return _own(row)
    if str(question) in by_question:
        return by_question[str(question)]
    what = f"id {name!r}" if _is_empty(question) else f"question {str(question)[:60]!r}"
    raise UserError(
        f"{place}: {what} is none of the {len(by_id)} problems in data/prepared. Give the row the id or the question "
        "of one (`dvc repro prepare` makes them), or its own question and answer"
    )


def _own(row: CompletionRow) -> Problem:
    """The problem that a row defines itself. Without an id, it gets a hash of its fields."""
    fields = {name: "" if _is_empty(row.get(name)) else str(row[name]) for name in FIELDS - {"level"}}
    left_out = FIELDS | OF_COMPLETION | (OF_RUN if "problem_id" in row else frozenset())
    columns = {name: row[name] for name in row if name not in left_out and not name.startswith("reward/")}
    accepted: tuple[str, ...] = ()
    if isinstance(row.get("answer"), list) and (golds := texts_at(row, "answer", "the row")):
        fields["answer"], accepted = golds[0], tuple(golds[1:])
    digest = hashlib.sha256(json.dumps([fields, *accepted, columns], sort_keys=True, default=str).encode()).hexdigest()
    fields["id"] = fields["id"] or str(row.get("problem_id") or digest[:8])
    name, question, answer, working = (fields[key] for key in ("id", "question", "answer", "working"))
    return Problem(name, question, answer, working, _level(row.get("level")), fields["solution"], columns, accepted)


def _level(value: Any) -> int:
    """The whole number in a level of any kind (3, "3", 3.0, "Level 3"); 0 without one, since it only splits tables."""
    digits = re.search(r"-?\d{1,9}", str(value))
    return 0 if digits is None else int(digits[0])


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def total(points: Sequence[float | None], weights: Sequence[float]) -> float:
    """Σ weight · points. A function that does not apply adds 0; NaN with a weight other than 0 gives NaN."""
    return sum(weight * point for point, weight in zip(points, weights, strict=True) if weight and point is not None)


def totals(scores: Scores) -> list[list[float]]:
    """The total points of each completion. [P][G]"""
    return [[total(points, scores.weights) for points in group] for group in scores.points]


def without_signal(totals_PG: Sequence[Sequence[float]]) -> tuple[int, int]:
    """The number of questions whose completions are all worth the same, so that they teach nothing, and of how many.

    Only questions with two or more completions count, as in training. Unscorable completions are left out.
    """
    groups = [[value for value in group if not math.isnan(value)] for group in totals_PG if len(group) > 1]
    return sum(len(set(group)) < 2 for group in groups), len(groups)


def summaries(scores: Scores) -> list[Summary]:
    """Each reward function over all completions."""
    rows = []
    for k, (name, weight) in enumerate(zip(scores.names, scores.weights, strict=True)):
        column = [points[k] for group in scores.points for points in group]
        given = [value for value in column if value is not None]
        known = [value for value in given if not math.isnan(value)]
        rows.append(
            Summary(
                name,
                weight,
                mean=sum(known) / len(known) if known else None,
                lowest=min(known, default=None),
                highest=max(known, default=None),
                not_applicable=len(column) - len(given),
                unscorable=len(given) - len(known),
            )
        )
    return rows


def spelled(verdict: Verdict) -> str:
    return f"{verdict.outcome.replace('_', ' ')} ({verdict.cause})" if verdict.cause else verdict.outcome
