"""Split the problems of a task in four: the numbers asked for, problems that fit, and no question twice."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from rlvr.tasks import Pools, question_key
from rlvr.types import Problem, UserError

if TYPE_CHECKING:
    from rlvr.config import Prepare

ORDER = ("evaluation", "dev", "sft", "train")  # so that the held-out splits do not depend on the training splits

LONGEST_WORD = 40  # characters; more without a space are text without spaces, as in Chinese or Japanese

Columns = dict[str, Any]  # a problem as text and tokens: prompt, prompt_tokens, target, target_tokens
Encode = Callable[[Problem], Columns]


@dataclass(frozen=True)
class TokenLimits:
    """The maximum tokens of a prompt and of an sft target, and whether questions are cut to fit."""

    prompt_tokens: int
    completion_tokens: int
    truncate: bool


@dataclass
class Split:
    """The rows of a split, the number of problems left out for each reason, and the number of questions cut.

    `longest` is the token count of the longest problem left out for its length, by reason.
    """

    rows: list[tuple[Problem, Columns]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    longest: dict[str, int] = field(default_factory=dict)
    truncated: int = 0

    def reasons(self) -> str:
        return ", ".join(
            f"{count} {reason}" + (f" (the longest has {self.longest[reason]})" if reason in self.longest else "")
            for reason, count in sorted(self.left_out.items())
        )

    def pass_over(self, reason: str, *, tokens: int | None = None) -> None:
        self.left_out[reason] += 1
        if tokens is not None:
            self.longest[reason] = max(tokens, self.longest.get(reason, 0))


def split_sizes(prepare: Prepare) -> dict[str, int | None]:
    """The size of each split that is not empty; None for all problems that are left."""
    counts = {
        "train": prepare.train_problems,
        "sft": prepare.sft_problems,
        "dev": prepare.dev_problems,
        "evaluation": prepare.evaluation_problems,
    }
    return {name: count for name, count in counts.items() if count != 0}


def set_aside(pools: Pools, count: int) -> tuple[list[Problem], Pools]:
    """Worked examples from the front of the training problems, and the pools without them.

    They are in no split, so that no prompt shows the answer to its own question. Raises UserError if there are too few.
    """
    held_out = {question_key(problem) for problem in pools.evaluation or []} if count else set()
    worked = (p for p in pools.training if p.working and question_key(p) not in held_out)
    examples = list(islice(worked, count))
    if len(examples) < count:
        raise UserError(
            f"prepare.few_shot asks for {count} worked examples, but only {len(examples)} of {len(pools.training)} "
            "problems have a worked solution: ask for fewer"
        )
    return examples, replace(pools, training=[p for p in pools.training if p not in examples])


def select(
    pools: Pools,
    counts: Mapping[str, int | None],
    encode: Encode,
    limits: TokenLimits,
    examples: Sequence[Problem] = (),
) -> dict[str, Split]:
    """The splits of `counts`, in its order, each of the size given there; None takes all that are left.

    No split holds a question of `examples`. Raises UserError if too few problems are left.
    """
    first = {question_key(p): "the examples of few_shot" for p in examples}  # where a question was taken first
    splits = {}
    training = pools.training
    for name in (name for name in ORDER if name in counts):
        if name == "evaluation" and pools.evaluation is not None:
            splits[name], _ = _take(pools.evaluation, name, counts[name], first, encode, limits)
        else:
            splits[name], training = _take(training, name, counts[name], first, encode, limits)
    return {name: splits[name] for name in counts}


def _take(
    pool: list[Problem], name: str, count: int | None, first: dict[str, str], encode: Encode, limits: TokenLimits
) -> tuple[Split, list[Problem]]:
    """The first `count` problems of `pool` that fit, and those that a later split may take."""
    split = Split()
    passed_on: list[Problem] = []
    queue = iter(pool)
    while len(split.rows) != count and (original := next(queue, None)):
        problem, columns = original, encode(original)
        if (tokens := len(columns["prompt_tokens"])) > limits.prompt_tokens:
            shorter = shortened(original, encode, limits.prompt_tokens) if limits.truncate else None
            if shorter is None:
                split.pass_over(f"with a prompt over prepare.max_prompt_tokens {limits.prompt_tokens}", tokens=tokens)
                continue
            problem, columns = shorter
        question = question_key(problem)
        if question in first:
            split.pass_over(f"that repeat a question of {first[question]}")
        elif name == "sft" and not columns["target"]:
            split.pass_over("whose worked solution holds a tag" if problem.working else "without a worked solution")
            passed_on.append(original)
        elif name == "sft" and (tokens := len(columns["target_tokens"])) > limits.completion_tokens:
            reason = f"with a worked solution over rollout.max_completion_tokens {limits.completion_tokens}"
            split.pass_over(reason, tokens=tokens)
            passed_on.append(original)
        else:
            first[question] = name
            split.truncated += problem is not original
            split.rows.append((problem, columns))
    _check_enough(split, name, count, len(pool))
    return split, [*passed_on, *queue]


def shortened(problem: Problem, encode: Encode, limit: int) -> tuple[Problem, Columns] | None:
    """The problem with the longest end of its question that fits, in whole words; None if no word fits.

    It keeps the end because a word problem asks its question there. A run of characters that no language separates
    into words is cut between any two.
    """
    starts = [
        start
        for word in re.finditer(r"\S+", problem.question)
        for start in (range(word.start(), word.end()) if len(word[0]) > LONGEST_WORD else [word.start()])
    ]

    def cut(start: int) -> tuple[Problem, Columns]:
        shorter = replace(problem, question=problem.question[start:])
        return shorter, encode(shorter)

    at = bisect_left(starts, True, key=lambda start: len(cut(start)[1]["prompt_tokens"]) <= limit)
    return cut(starts[at]) if at < len(starts) else None


def _check_enough(split: Split, name: str, count: int | None, available: int) -> None:
    if len(split.rows) >= (count or 1):
        return
    without = " (or 0, with sft.enabled: false)" if name in ("sft", "dev") else ""
    raise UserError(
        f"prepare.{name}_problems asks for {count or 'all that are left'} and gets {len(split.rows)} of {available} "
        f"problems; left out: {split.reasons() or 'none'}. Ask for fewer in this or another split{without}, add data, "
        "or raise the limits"
    )
