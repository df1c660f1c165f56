"""Test a rubric with completions written to fool it, compared with an honest right answer."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.chat import Tags
from rlvr.commands.trial import spelled, totals
from rlvr.rewards.rubric import Scorer
from rlvr.types import Answered, Problem
from rlvr.verifiers.number import parse
from rlvr.verifiers.verdict import Verdict

HONEST = "the right answer"
WORKED = "the worked solution"
HEAVY = ("tags, 1,000 times", "10 MB of digits", "10 MB without tags")  # on one problem only
REASONING = "I think about it step by step."
SLOW_SECONDS = 1.0  # for one completion: a step of 256 would take minutes
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Trick:
    """One kind of completion on several problems: `totals` and verdicts of each, and mean seconds per completion."""

    kind: str
    totals: tuple[float, ...]
    verdicts: tuple[Verdict, ...]
    seconds: float
    messages: tuple[str, ...]

    @property
    def is_honest(self) -> bool:
        return self.kind in (HONEST, WORKED)

    @property
    def verdict(self) -> str:
        """The most common verdict."""
        return Counter(spelled(verdict) for verdict in self.verdicts).most_common(1)[0][0]


@dataclass(frozen=True)
class Finding:
    """Something to look at; `is_accepted` if the rubric accepts what it should not."""

    message: str
    is_accepted: bool


def completions(problem: Problem, others: Sequence[Problem], tags: Tags) -> dict[str, str]:
    """Completions of `problem` by kind, the honest ones first. Wrong answers are taken from `others`."""
    right, wrong = _answer(problem), wrong_answer(problem, others)

    def formed(reasoning: str, answer: str) -> str:
        return f"{tags.reasoning_start}{reasoning}{tags.reasoning_end}{tags.answer_start}{answer}{tags.answer_end}"

    start, end, answer_start, answer_end = tags.marks()
    everything = " ".join([*map(str, range(100)), right, *(_answer(other) for other in others[:100])])
    twice = f"{tags.answer_start}{right}{tags.answer_end}"
    return {
        HONEST: formed(REASONING, right),
        **({WORKED: formed(problem.working, right)} if problem.working else {}),
        "nothing": "",
        "white space": " \n\t " * 10,
        "the question again": problem.question,
        "the answer without tags": right,
        "every answer at once": formed(REASONING, everything),
        "tags with nothing in them": formed("", ""),
        "tags with white space": formed(" ", " "),
        "a wrong answer": formed(REASONING, wrong),
        "right in the reasoning only": formed(f"It is {right}.", wrong),
        "answer tags in the reasoning": f"{start}{REASONING}{answer_start}{right}{answer_end}{end}",
        "nested tags": f"{start * 2}{REASONING}{end * 2}{answer_start * 2}{right}{answer_end * 2}",
        "the answer twice": formed(REASONING, right) + twice,
        "right, then others": formed(REASONING, f"{right} or {wrong}, or else {wrong}{wrong}"),
        "invalid unicode": formed(REASONING, f"\ud800{wrong}\udfff"),
        "null bytes": formed(REASONING, f"\0{wrong}\0"),
        "tags, 1,000 times": formed(REASONING, right) * 1000,
        "10 MB of digits": formed(REASONING, "9" * 10_000_000),
        "10 MB without tags": f"{right} " * (10_000_000 // (len(right) + 1)),
    }


def _answer(problem: Problem) -> str:
    return problem.solution or problem.answer


def wrong_answer(problem: Problem, others: Sequence[Problem]) -> str:
    """A wrong answer: another number, or the answer to a problem with another gold."""
    gold = None if problem.solution else parse(problem.answer)
    if gold is not None:
        return str(math.trunc(2 * abs(gold)) + 1007)
    answers = (_answer(other) for other in others if other.answer.strip().lower() != problem.answer.strip().lower())
    right = _answer(problem).strip().lower()
    return next((answer for answer in answers if answer.strip().lower() != right), "no idea")


def examine(scorer: Scorer, problems: Sequence[Problem], tags: Tags, *, max_completion_tokens: int) -> list[Trick]:
    """Score each kind of completion separately, so that it is timed on its own.

    A token is counted as four characters, up to `max_completion_tokens`, where a completion is cut.
    """
    texts_by_problem = [
        completions(problem, [*problems[p + 1 :], *problems[:p]], tags) for p, problem in enumerate(problems)
    ]
    kinds = list(dict.fromkeys(kind for by_kind in texts_by_problem for kind in by_kind))
    _try(scorer, problems[:1], [texts_by_problem[0][HONEST]], HONEST, max_completion_tokens)  # starts the workers
    tricks = []
    for kind in kinds:
        indices = [p for p, by_kind in enumerate(texts_by_problem) if kind in by_kind][: 1 if kind in HEAVY else None]
        texts = [texts_by_problem[p][kind] for p in indices]
        tricks.append(_try(scorer, [problems[p] for p in indices], texts, kind, max_completion_tokens))
    return tricks


def _try(
    scorer: Scorer, problems: Sequence[Problem], texts: Sequence[str], kind: str, max_completion_tokens: int
) -> Trick:
    before = time.monotonic()
    for problem, text in zip(problems, texts, strict=True):
        num_tokens = len(text) // CHARACTERS_PER_TOKEN + 1
        is_truncated = num_tokens > max_completion_tokens
        scorer.submit(problem, [Answered(text, min(num_tokens, max_completion_tokens), is_truncated)])
    scores = scorer.finish()
    seconds = (time.monotonic() - before) / len(texts)
    verdicts = tuple(verdicts[0] for verdicts in scores.verdicts)
    return Trick(kind, tuple(values[0] for values in totals(scores)), verdicts, seconds, scores.messages)


def findings(tricks: Sequence[Trick]) -> list[Finding]:
    """All findings, accepted completions first."""
    honest = next(trick for trick in tricks if trick.kind == HONEST)
    accepted = [Finding(text, True) for trick in tricks if not trick.is_honest for text in _accepted(trick, honest)]
    return accepted + [Finding(text, False) for text in [*_rejected(tricks), *_unscorable(tricks), *_slow(tricks)]]


def is_conclusive(tricks: Sequence[Trick]) -> bool:
    """Whether the right answer is right and has a score on every problem, so that others can be compared with it."""
    (honest,) = (trick for trick in tricks if trick.kind == HONEST)
    return all(verdict.is_right for verdict in honest.verdicts) and not any(map(math.isnan, honest.totals))


def _accepted(trick: Trick, honest: Trick) -> list[str]:
    messages, count = [], len(trick.totals)
    if right := sum(verdict.is_right for verdict in trick.verdicts):
        messages.append(f"{trick.kind}: judged right, {right} of {count}")
    pairs = zip(trick.totals, honest.totals, strict=False)  # heavy kinds have only the first problem
    if as_high := [pair for pair in pairs if pair[0] >= pair[1]]:
        value, least = as_high[0]
        messages.append(
            f"{trick.kind}: worth at least as much as the right answer, {len(as_high)} of {count} "
            f"(for example {value:g}; the right answer {least:g})"
        )
    return messages


def _rejected(tricks: Sequence[Trick]) -> list[str]:
    wrong = {
        trick.kind: sum(verdict.outcome == "wrong" for verdict in trick.verdicts) for trick in tricks if trick.is_honest
    }
    return [
        f"{kind}: judged wrong, {count} times: check verifiers.answer, and prepare.records.columns.solution if "
        "the gold is not the answer itself"
        for kind, count in wrong.items()
        if count
    ]


def _unscorable(tricks: Sequence[Trick]) -> list[str]:
    """Completions whose scoring failed; kinds with the same reason are grouped."""
    kinds: dict[str, list[str]] = {}
    for trick in tricks:
        pairs = zip(trick.verdicts, trick.totals, strict=True)
        if count := sum(verdict.is_fault or math.isnan(value) for verdict, value in pairs):
            reason = trick.messages[0] if trick.messages else "no reason given"
            kinds.setdefault(reason, []).append(f"{trick.kind} ({count} of {len(trick.totals)})")
    return [f"could not be scored: {', '.join(names)}: {reason}" for reason, names in kinds.items()]


def _slow(tricks: Sequence[Trick]) -> list[str]:
    return [f"{trick.kind}: takes {trick.seconds:.1f} s to score" for trick in tricks if trick.seconds > SLOW_SECONDS]
