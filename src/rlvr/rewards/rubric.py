"""A rubric: the weighted reward functions of params.yaml, applied to the completions of questions.

Anything that could hang or exhaust memory runs in worker processes from the moment it is submitted, while the sampler
continues. Every failure there has a documented outcome. A verifier that hangs or crashes on an answer makes it wrong,
with its cause. A user's reward function or a judge that fails makes the completion unscorable (NaN), with a message.
"""
# P prompts · G completions per prompt · K reward functions

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rlvr.chat import Reading, Tags, read
from rlvr.rewards import custom, probe
from rlvr.rewards.functions import FUNCTIONS
from rlvr.rewards.judge import options as language_model
from rlvr.rewards.sample import Sample
from rlvr.types import Answered, Problem, UserError
from rlvr.verifiers.verdict import Verdict
from rlvr.verifiers.verify import Asked, VerifierSettings, make_verifier, open_workers, settle
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
    @property
    def when(self) -> Literal["right", "wrong"] | None: ...
    @property
    def messages(self) -> bool | None: ...
    @property
    def sandbox(self) -> bool: ...


@dataclass(frozen=True)
class Scores:
    """`points` [P][G][K] in the order of `names`, `verdicts` [P][G] of the run's verifier.

    Points are None where a function does not apply and NaN where scoring failed. `messages` lists each failure once.
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
class _Pending:
    """One question's completions while they are scored.

    `verdicts` are by verifier. `replies` hold the points of the functions that run in worker processes, by reward.
    """

    problem: Problem
    completions: Sequence[Answered]
    readings: Sequence[Reading]
    verdicts: dict[str, list[Asked]]
    replies: dict[str, Future[Reply]]


class Scorer:
    """Scores completions: `submit` those of each question, then `finish` for all scores. Made by open_scorer."""

    def __init__(
        self, rubric: Mapping[str, RewardSetting], verifiers: VerifierSettings, tags: Tags, *, pools: ExitStack
    ) -> None:
        self.rubric, self.verifiers, self.tags = rubric, verifiers, tags
        self.workers = pools.enter_context(open_workers(verifiers))
        names = {verifiers.answer, *(reward.verifier for reward in rubric.values() if reward.verifier)}
        probe.verifiers(names, verifiers, self.workers)
        self.signatures = probe.signatures(rubric, verifiers, self.workers)
        self.running = {name: make_verifier(verifiers, name, self.workers) for name in sorted(names)}
        self.pending: list[_Pending] = []

    def check_columns(self, problems: Sequence[Problem]) -> list[str]:
        """Raise UserError when a user's function asks for a column that no row of the data has.

        Returns a note for each column that a function cannot get, since its name has another meaning.
        """
        columns = {column for problem in problems for column in custom.columns_of(problem)}
        notes = []
        for name, signature in self.signatures.items():
            try:
                custom.check_columns(signature, columns)
            except ValueError as error:
                raise UserError(f"rewards.{name}: {error}") from None
            notes += [f"rewards.{name}: {note}" for note in custom.hidden_columns(signature, columns)]
        return notes

    def submit(self, problem: Problem, completions: Sequence[Answered]) -> None:
        """Start scoring the completions of one question."""
        readings = [read(completion.text, self.tags) for completion in completions]
        verdicts = {
            name: [verifier.ask(reading.answer, problem) for reading in readings]
            for name, verifier in self.running.items()
        }
        replies = {
            name: future
            for name, reward in self.rubric.items()
            if (future := self._in_worker(name, reward, problem, completions, readings)) is not None
        }
        self.pending.append(_Pending(problem, completions, readings, verdicts, replies))

    def finish(self) -> Scores:
        """Wait for the scores of everything submitted since the last call."""
        points, verdicts, messages = [], [], dict[str, None]()
        for pending in self.pending:
            samples = {name: self._samples(pending, column) for name, column in pending.verdicts.items()}
            columns = []
            for name, reward in self.rubric.items():
                verifier = reward.verifier or self.verifiers.answer
                column, failures = self._column(name, reward, pending, samples[verifier])
                columns.append(column)
                messages |= dict.fromkeys(failures)
            points.append([list(row) for row in zip(*columns, strict=True)])
            verdicts.append([sample.verdict for sample in samples[self.verifiers.answer]])
            every_verdict = [sample.verdict for column in samples.values() for sample in column]
            messages |= dict.fromkeys(
                f"{pending.problem.id}: {verdict.cause}: {verdict.message}"
                for verdict in every_verdict
                if verdict.is_fault
            )
        self.pending = []
        for running in self.running.values():
            running.forget()
        weights = tuple(reward.weight for reward in self.rubric.values())
        return Scores(tuple(self.rubric), weights, points, verdicts, tuple(messages))

    def _samples(self, pending: _Pending, verdicts: Sequence[Asked]) -> list[Sample]:
        """The input of the reward functions that use one verifier."""
        return [
            Sample(completion, pending.problem, self.tags, reading, settle(verdict))
            for completion, reading, verdict in zip(pending.completions, pending.readings, verdicts, strict=True)
        ]

    def _in_worker(
        self,
        name: str,
        reward: RewardSetting,
        problem: Problem,
        completions: Sequence[Answered],
        readings: Sequence[Reading],
    ) -> Future[Reply] | None:
        """The future reply of a user's function or a judge about one group; None for the built-in functions."""
        if reward.python is not None:
            arguments = custom.arguments(
                reward.python, reward.options, problem, completions, readings, messages=reward.messages
            )
            return self.workers.submit(**probe.job(self.verifiers, "call", arguments, in_sandbox=reward.sandbox))
        if (reward.function or name) == language_model.NAME:
            arguments = language_model.arguments(name, reward.options, problem, completions)
            num_completions = len(completions) * self.verifiers.workers
            seconds = language_model.longest_seconds(num_completions, language_model.Options(**reward.options))
            return self.workers.submit(language_model.TARGET, arguments, seconds=seconds)
        return None

    def _column(
        self, name: str, reward: RewardSetting, pending: _Pending, samples: Sequence[Sample]
    ) -> tuple[list[Points], list[str]]:
        """The points of one function for each completion of a question, and what failed.

        With `when` the function applies to the completions with this verdict only.
        """
        column, failures = self._all_points(name, reward, pending, samples)
        if reward.when is not None:
            column = [
                math.nan if sample.verdict.is_fault else points if sample.verdict.outcome == reward.when else None
                for points, sample in zip(column, samples, strict=True)
            ]
        return column, failures

    def _all_points(
        self, name: str, reward: RewardSetting, pending: _Pending, samples: Sequence[Sample]
    ) -> tuple[list[Points], list[str]]:
        if name in pending.replies:
            reply = pending.replies[name].result()
            if reply.failure is not None:
                return [math.nan] * len(samples), [f"rewards.{name}: {reply.failure}: {reply.message}"]
            pairs = zip(reply.value["points"], reply.value["messages"], strict=True)
            failed = [reason for points, reason in pairs if points is not None and math.isnan(points)]
            return reply.value["points"], [f"rewards.{name}: {reason}" for reason in failed]
        function: Callable[..., Points] = FUNCTIONS[reward.function or name]
        return [function(sample, **reward.options) for sample in samples], []


@contextmanager
def open_scorer(rubric: Mapping[str, RewardSetting], verifiers: VerifierSettings, tags: Tags) -> Iterator[Scorer]:
    """A scorer whose worker processes end with the block.

    Raises UserError when a verifier, a judge or a user's function cannot run on this machine.
    """
    for name, reward in rubric.items():
        if reward.python is None and (reward.function or name) == language_model.NAME:
            try:
                language_model.find_key(language_model.Options(**reward.options))
            except ValueError as error:
                raise UserError(f"rewards.{name}: {error}") from None
    with ExitStack() as pools:
        yield Scorer(rubric, verifiers, tags, pools=pools)
