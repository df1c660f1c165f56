"""A rubric: the weighted reward functions of params.yaml, applied to the completions of questions.

What may hang or blow up runs in worker processes from the moment it is submitted, while the sampler goes on. Whatever
goes wrong there has a documented outcome: a verifier that hangs or crashes on an answer makes it wrong, with its
cause; a reward function of the user's, or a judge, that fails makes the completion unscorable (NaN), with a message.
"""
# P prompts · G completions per prompt · K reward functions

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.chat import Reading, Tags, read
from rlvr.rewards import custom
from rlvr.rewards.functions import FUNCTIONS
from rlvr.rewards.judge import options as language_model
from rlvr.rewards.sample import Sample
from rlvr.types import Answered, Problem, UserError
from rlvr.verifiers.judging import VerifierSettings, make_judge, open_workers, settle
from rlvr.verifiers.verdict import Verdict
from rlvr.verifiers.workers.pool import Reply

Points = float | None


class RewardSetting(Protocol):
    @property
    def weight(self) -> float: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def function(self) -> str | None: ...
    @property
    def python(self) -> str | None: ...
    @property
    def verifier(self) -> str | None: ...


@dataclass(frozen=True)
class Scores:
    """`points` [P][G][K] in the order of `names`, `verdicts` [P][G] of the run's verifier.

    Points are None where a function does not apply and NaN where it could not judge by our own fault; `messages` says
    what went wrong then, each once.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    points: list[list[list[Points]]]
    verdicts: list[list[Verdict]]
    messages: tuple[str, ...]

    @property
    def correct(self) -> list[list[bool]]:
        """Whether each completion is well-formed with the right answer. [P][G]"""
        return [[verdict.is_right for verdict in verdicts] for verdicts in self.verdicts]


@dataclass(frozen=True)
class _Asked:
    """A question's completions on their way: verdicts by verifier, and points of the functions that run elsewhere."""

    problem: Problem
    answered: Sequence[Answered]
    readings: Sequence[Reading]
    verdicts: dict[str, list[Verdict | Future[Reply]]]
    elsewhere: dict[str, Future[Reply]]


class Scorer:
    """Made by open_scorer: `submit` each question's completions, then `finish` for the scores of all of them."""

    def __init__(
        self, rubric: Mapping[str, RewardSetting], verifiers: VerifierSettings, tags: Tags, *, pools: ExitStack
    ) -> None:
        self.rubric, self.verifiers, self.tags = rubric, verifiers, tags
        self.workers = pools.enter_context(open_workers(verifiers))
        names = {verifiers.answer, *(reward.verifier for reward in rubric.values() if reward.verifier)}
        self.judges = {name: make_judge(verifiers, name, self.workers) for name in sorted(names)}
        self.asked: list[_Asked] = []

    def submit(self, problem: Problem, answered: Sequence[Answered]) -> None:
        """Begin to judge the completions of one question."""
        readings = [read(one.text, self.tags) for one in answered]
        verdicts = {
            name: [judge.ask(reading.answer, problem.answer) for reading in readings]
            for name, judge in self.judges.items()
        }
        elsewhere = {
            name: future
            for name, reward in self.rubric.items()
            if (future := self._elsewhere(name, reward, problem, answered)) is not None
        }
        self.asked.append(_Asked(problem, answered, readings, verdicts, elsewhere))

    def finish(self) -> Scores:
        """The scores of everything submitted since the last time, waited for."""
        points, verdicts, messages = [], [], dict[str, None]()
        for asked in self.asked:
            samples = {name: self._samples(asked, column) for name, column in asked.verdicts.items()}
            columns = []
            for name, reward in self.rubric.items():
                column, found = self._column(name, reward, asked, samples[reward.verifier or self.verifiers.answer])
                columns.append(column)
                messages |= dict.fromkeys(found)
            points.append([list(row) for row in zip(*columns, strict=True)])
            verdicts.append([sample.verdict for sample in samples[self.verifiers.answer]])
            judged = [sample.verdict for column in samples.values() for sample in column]
            messages |= dict.fromkeys(
                f"{asked.problem.id}: {verdict.cause}: {verdict.message}" for verdict in judged if verdict.is_fault
            )
        self.asked = []
        for judging in self.judges.values():
            judging.forget()
        weights = tuple(reward.weight for reward in self.rubric.values())
        return Scores(tuple(self.rubric), weights, points, verdicts, tuple(messages))

    def _samples(self, asked: _Asked, verdicts: Sequence[Verdict | Future[Reply]]) -> list[Sample]:
        """What the functions read, shared by those of the same verifier."""
        return [
            Sample(one.text, one.num_tokens, one.is_truncated, asked.problem, self.tags, reading, settle(verdict))
            for one, reading, verdict in zip(asked.answered, asked.readings, verdicts, strict=True)
        ]

    def _elsewhere(
        self, name: str, reward: RewardSetting, problem: Problem, answered: Sequence[Answered]
    ) -> Future[Reply] | None:
        """The promise of a group's points by a function of the user's or by a judge; None for the functions here."""
        if reward.python is not None:
            arguments = custom.arguments(reward.python, reward.options, problem, answered)
            return self.workers.submit(custom.TARGET, arguments, seconds=self.verifiers.function_seconds)
        if (reward.function or name) == language_model.NAME:
            arguments = language_model.arguments(name, reward.options, problem, answered)
            at_once = len(answered) * self.verifiers.workers
            seconds = language_model.longest_seconds(at_once, language_model.Options(**reward.options))
            return self.workers.submit(language_model.TARGET, arguments, seconds=seconds)
        return None

    def _column(
        self, name: str, reward: RewardSetting, asked: _Asked, samples: Sequence[Sample]
    ) -> tuple[list[Points], list[str]]:
        """The points of one function for each completion of a question, and what went wrong."""
        if name in asked.elsewhere:
            reply = asked.elsewhere[name].result()
            if reply.failure is not None:
                return [math.nan] * len(samples), [f"rewards.{name}: {reply.failure}: {reply.message}"]
            if isinstance(reply.value, list):  # a function of the user's
                return reply.value, []
            said = zip(reply.value["points"], reply.value["messages"], strict=True)
            return reply.value["points"], [f"rewards.{name}: {why}" for point, why in said if math.isnan(point)]
        function: Callable[..., Points] = FUNCTIONS[reward.function or name]
        return [function(sample, **reward.options) for sample in samples], []


def check_columns(rubric: Mapping[str, RewardSetting], problems: Sequence[Problem]) -> None:
    """Raise UserError when a function of the user's asks for a column that no row of the data has."""
    there = {column for problem in problems for column in custom.columns_of(problem)}
    for name, reward in rubric.items():
        if reward.python is not None:
            try:
                custom.check_columns(custom.check(reward.python, options=reward.options), there)
            except ValueError as error:
                raise UserError(f"rewards.{name}: {error}") from None


@contextmanager
def open_scorer(rubric: Mapping[str, RewardSetting], verifiers: VerifierSettings, tags: Tags) -> Iterator[Scorer]:
    """A scorer whose worker processes live as long as the block.

    Raises UserError when a verifier or a judge cannot run on this machine.
    """
    for name, reward in rubric.items():
        if reward.python is None and (reward.function or name) == language_model.NAME:
            try:
                language_model.find_key(language_model.Options(**reward.options))
            except ValueError as error:
                raise UserError(f"rewards.{name}: {error}") from None
    with ExitStack() as pools:
        yield Scorer(rubric, verifiers, tags, pools=pools)
