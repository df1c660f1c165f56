"""Run verifiers on answers: here where that is safe, in a worker process with a deadline where it is not."""

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

SANDBOX_START_SECONDS = 15.0  # it may take on a busy machine before a program's own time begins
GOLDS_READ = 32  # by check_golds with an isolated verifier
CAUSES = {"timeout": TIMEOUT, "memory": MEMORY, "crash": CRASH, "error": CRASH}

AnswerAndGold = tuple[str | None, str]  # the answer is None where a completion has none
Verify = Callable[[Sequence[AnswerAndGold]], list[Verdict]]


@dataclass
class RunningVerifier:
    """One verifier with its options. An isolated one runs only once for the same answer and gold."""

    name: str
    options: Mapping[str, Any]
    seconds: float
    workers: Workers
    replies: dict[tuple[str, str], Future[Reply]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError when the verifier cannot run on this machine."""
        if self.name == "python":
            sandbox.check(self.options["kind"])
        self.verifier = VERIFIERS[self.name]
        self.function: Callable[..., Verdict] | None = None
        if not self.verifier.isolated:
            module, _, function = self.verifier.target.partition(":")
            self.function = getattr(importlib.import_module(module), function)

    def ask(self, answer: str | None, gold: str) -> Verdict | Future[Reply]:
        """The verdict, or the promise of one; `answer` is None where a completion has none."""
        if answer is None:
            return wrong(MISSING)
        if self.function is not None:
            return self.function(answer, gold, **self.options)
        key = answer, gold
        if key not in self.replies:
            arguments = {"answer": answer, "gold": gold, **self.options}
            self.replies[key] = self.workers.submit(self.verifier.target, arguments, seconds=self.seconds)
        return self.replies[key]

    def forget(self) -> None:
        """Drop the replies collected so far."""
        self.replies.clear()


class Options(Protocol):
    def model_dump(self) -> dict[str, Any]: ...


class ProgramOptions(Options, Protocol):
    @property
    def wall_seconds(self) -> float: ...


class VerifierSettings(Protocol):
    """Section verifiers of params.yaml."""

    @property
    def answer(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def memory_mib(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def function_seconds(self) -> float: ...
    @property
    def sandbox(self) -> str: ...
    @property
    def number(self) -> Options: ...
    @property
    def python(self) -> ProgramOptions: ...


def options_of(settings: VerifierSettings, name: str) -> dict[str, Any]:
    """The arguments of verifier `name` besides answer and gold."""
    if name == "number":
        return settings.number.model_dump()
    return settings.python.model_dump() | {"kind": settings.sandbox} if name == "python" else {}


def deadline_seconds(settings: VerifierSettings, name: str) -> float:
    """When a call of verifier `name` is given up. The sandbox keeps its own time, and ends before."""
    return settings.seconds + (SANDBOX_START_SECONDS + settings.python.wall_seconds if name == "python" else 0.0)


def open_workers(settings: VerifierSettings) -> Workers:
    """The worker processes of `settings`; each starts when there is work for it."""
    return Workers(settings.workers, memory_bytes=settings.memory_mib * 2**20)


def make_verifier(settings: VerifierSettings, name: str, workers: Workers) -> RunningVerifier:
    return RunningVerifier(name, options_of(settings, name), deadline_seconds(settings, name), workers)


@contextmanager
def open_verifier(settings: VerifierSettings) -> Iterator[Verify]:
    """A function from (answer, gold) pairs to the verdicts of `verifiers.answer`."""
    with open_workers(settings) as workers:
        verifier = make_verifier(settings, settings.answer, workers)

        def verify(pairs: Sequence[AnswerAndGold]) -> list[Verdict]:
            verdicts = [verifier.ask(answer, gold) for answer, gold in pairs]
            verifier.forget()
            return [settle(verdict) for verdict in verdicts]

        yield verify


def check_golds(settings: VerifierSettings, problems: Sequence[Problem]) -> None:
    """Raise UserError when `verifiers.answer` cannot read golds of the data. Each gold is verified against itself.

    An isolated verifier is slow, so it reads only the first GOLDS_READ of them.
    """
    sample = problems[:GOLDS_READ] if VERIFIERS[settings.answer].isolated else problems
    with open_verifier(settings) as verify:
        verdicts = verify([(problem.solution or problem.answer, problem.answer) for problem in sample])
    faults = [(problem, verdict) for problem, verdict in zip(sample, verdicts, strict=True) if verdict.is_fault]
    if faults:
        problem, verdict = faults[0]
        raise UserError(
            f"verifiers.answer {settings.answer} cannot read the answer of {len(faults)} of {len(sample)} problems, "
            f"the first {problem.id} ({problem.question[:60]!r}): {verdict.message}. Fix or filter these rows, or "
            "choose another verifier (text compares words): docs/rewards.md"
        )


def settle(verdict: Verdict | Future[Reply]) -> Verdict:
    """Wait for the verdict."""
    return verdict if isinstance(verdict, Verdict) else verdict_of(verdict.result())


def verdict_of(reply: Reply) -> Verdict:
    """The verdict in `reply`. An answer that breaks its verifier is wrong, so breaking it earns nothing.

    Only an answer that was never verified, because a worker or the verifier's module could not be loaded, is a fault.
    """
    if reply.failure is None:
        return Verdict.from_json(reply.value)
    if reply.failure == "worker":
        return fault(WORKER, reply.message)
    return wrong(CAUSES[reply.failure], reply.message)
