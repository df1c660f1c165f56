"""Verdicts on answers: at once where that is safe, in a worker process with a deadline where it is not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlvr.types import Problem, UserError
from rlvr.verifiers import VERIFIERS
from rlvr.verifiers.sandbox import run as sandbox
from rlvr.verifiers.verdict import CRASH, MEMORY, MISSING, TIMEOUT, WORKER, Verdict, fault, wrong
from rlvr.verifiers.workers.pool import Reply, Workers

GOLDS_READ = 32  # by check_golds, of an isolated verifier
CAUSES = {"timeout": TIMEOUT, "memory": MEMORY, "crash": CRASH, "error": CRASH}

Asked = tuple[str | None, str]  # answer, None where a completion has none, and gold
Verdicts = Callable[[Sequence[Asked]], list[Verdict]]


@dataclass
class Judge:
    """One verifier with its options. Asked twice for the same answer and gold, an isolated one runs once."""

    name: str
    options: Mapping[str, Any]
    seconds: float
    workers: Workers
    asked: dict[tuple[str, str], Future[Reply]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError when the verifier cannot run on this machine."""
        if self.name == "python":
            sandbox.check(self.options["kind"])
        self.verifier = VERIFIERS[self.name]
        self.here: Callable[..., Verdict] | None = None
        if not self.verifier.isolated:
            module, _, function = self.verifier.target.partition(":")
            self.here = getattr(importlib.import_module(module), function)

    def ask(self, answer: str | None, gold: str) -> Verdict | Future[Reply]:
        """The verdict, or the promise of one; `answer` is None where a completion has none."""
        if answer is None:
            return wrong(MISSING)
        if self.here is not None:
            return self.here(answer, gold, **self.options)
        key = answer, gold
        if key not in self.asked:
            arguments = {"answer": answer, "gold": gold, **self.options}
            self.asked[key] = self.workers.submit(self.verifier.target, arguments, seconds=self.seconds)
        return self.asked[key]

    def forget(self) -> None:
        """Let go of the answers asked so far."""
        self.asked.clear()


class VerifierSettings(Protocol):
    @property
    def answer(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def memory_mib(self) -> int: ...
    @property
    def function_seconds(self) -> float: ...
    def options(self, name: str) -> dict[str, Any]: ...
    def deadline_seconds(self, name: str) -> float: ...


def open_workers(settings: VerifierSettings) -> Workers:
    """The worker processes of `settings`; none is started before there is work."""
    return Workers(settings.workers, memory_bytes=settings.memory_mib * 2**20)


def make_judge(settings: VerifierSettings, name: str, workers: Workers) -> Judge:
    return Judge(name, settings.options(name), settings.deadline_seconds(name), workers)


@contextmanager
def open_judge(settings: VerifierSettings) -> Iterator[Verdicts]:
    """A function from (answer, gold) pairs to the verdicts of `verifiers.answer`."""
    with open_workers(settings) as workers:
        judge = make_judge(settings, settings.answer, workers)

        def verdicts(pairs: Sequence[Asked]) -> list[Verdict]:
            asked = [judge.ask(answer, gold) for answer, gold in pairs]
            judge.forget()
            return [settle(verdict) for verdict in asked]

        yield verdicts


def check_golds(settings: VerifierSettings, problems: Sequence[Problem]) -> None:
    """Raise UserError when `verifiers.answer` cannot read golds of the data, found by judging each against itself.

    An isolated verifier, which takes its time, reads some of them.
    """
    chosen = problems[:GOLDS_READ] if VERIFIERS[settings.answer].isolated else problems
    with open_judge(settings) as judge:
        verdicts = judge([(problem.solution or problem.answer, problem.answer) for problem in chosen])
    faults = [(problem, verdict) for problem, verdict in zip(chosen, verdicts, strict=True) if verdict.is_fault]
    if faults:
        problem, verdict = faults[0]
        raise UserError(
            f"verifiers.answer {settings.answer} cannot read the answer of {len(faults)} of {len(chosen)} problems, "
            f"the first {problem.id} ({problem.question[:60]!r}): {verdict.message}; mend or filter these rows, or "
            "take another verifier (text compares words): docs/rewards.md"
        )


def settle(verdict: Verdict | Future[Reply]) -> Verdict:
    """The verdict, waited for."""
    return verdict if isinstance(verdict, Verdict) else replied(verdict.result())


def replied(reply: Reply) -> Verdict:
    """The verdict in `reply`. An answer that breaks its judge is wrong: nothing is to be gained that way.

    Only what was never judged, because a worker or the verifier's module could not be loaded, is our fault.
    """
    if reply.failure is None:
        return Verdict.from_json(reply.value)
    if reply.failure == "worker":
        return fault(WORKER, reply.message)
    return wrong(CAUSES[reply.failure], reply.message)
