"""Run verifiers on answers and golds: here where that is safe, in a worker process with a deadline where it is not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlvr.types import Problem
from rlvr.verifiers import verifier_named
from rlvr.verifiers.sandbox import run as sandbox
from rlvr.verifiers.verdict import CRASH, MEMORY, MISSING, RIGHT, TIMEOUT, WORKER, Verdict, fault, wrong
from rlvr.verifiers.workers.pool import Reply, Workers

SANDBOX_START_SECONDS = 15.0  # it may take on a busy machine before a program's own time begins
HELD_UP_SECONDS = 300.0  # a machine may keep a verifier from its CPU time before the verdict is given up
CAUSES = {"timeout": TIMEOUT, "memory": MEMORY, "crash": CRASH, "error": CRASH}

Answer = tuple[str | None, Problem]  # the text is None where a completion has no answer
Asked = Verdict | Future[Reply] | tuple[Verdict | Future[Reply], ...]  # a verdict for each gold of several
Verify = Callable[[Sequence[Answer]], list[Verdict]]


@dataclass
class RunningVerifier:
    """One verifier with its options. An isolated one runs only once for the same answer, gold and question.

    A verdict may take `cpu_seconds` in its worker, and is given up after `seconds`.
    """

    name: str
    options: Mapping[str, Any]
    cpu_seconds: float
    seconds: float
    workers: Workers
    replies: dict[tuple[Any, ...], Future[Reply]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError when the verifier cannot run on this machine."""
        if self.name == "python":
            sandbox.check(self.options["kind"])
        self.verifier = verifier_named(self.name)

    def ask(self, answer: str | None, problem: Problem) -> Asked:
        """The verdict, or the promise of one, for each gold; `answer` is None where a completion has none."""
        if answer is None:
            return wrong(MISSING)
        arguments = {"answer": answer} | ({"question": problem.question} if self.verifier.reads_question else {})
        calls = tuple(self._call(self.verifier.target, arguments | {"gold": gold}) for gold in problem.golds)
        return calls if problem.accepted else calls[0]

    def ask_gold(self, gold: str) -> Verdict | Future[Reply]:
        """Right for a gold that the verifier can use, else a fault."""
        return RIGHT if self.verifier.any_gold else self._call(self.verifier.check_gold, {"gold": gold})

    def _call(self, target: str, arguments: dict[str, str]) -> Verdict | Future[Reply]:
        if not self.verifier.isolated:
            module, _, name = target.partition(":")
            function: Callable[..., Verdict] = getattr(importlib.import_module(module), name)
            return function(**arguments, **self.options)
        key = target, *arguments.values()
        if key not in self.replies:
            self.replies[key] = self.workers.submit(
                target, {**arguments, **self.options}, seconds=self.seconds, cpu_seconds=self.cpu_seconds
            )
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
    if ":" in name:
        path, _, function = name.partition(":")
        return {"path": path, "function": function}
    if name == "number":
        return settings.number.model_dump()
    return settings.python.model_dump() | {"kind": settings.sandbox} if name == "python" else {}


def longest_seconds(settings: VerifierSettings, name: str) -> float:
    """When a call of verifier `name` is given up. The sandbox keeps its own time, and ends before."""
    sandbox_seconds = SANDBOX_START_SECONDS + settings.python.wall_seconds if name == "python" else 0.0
    return settings.seconds + sandbox_seconds + HELD_UP_SECONDS


def open_workers(settings: VerifierSettings) -> Workers:
    """The worker processes of `settings`; each starts when there is work for it."""
    return Workers(settings.workers, memory_bytes=settings.memory_mib * 2**20)


def make_verifier(settings: VerifierSettings, name: str, workers: Workers) -> RunningVerifier:
    return RunningVerifier(name, options_of(settings, name), settings.seconds, longest_seconds(settings, name), workers)


@contextmanager
def open_verifier(settings: VerifierSettings) -> Iterator[Verify]:
    """A function from answers and their problems to the verdicts of `verifiers.answer`."""
    with open_workers(settings) as workers:
        verifier = make_verifier(settings, settings.answer, workers)

        def verify(answers: Sequence[Answer]) -> list[Verdict]:
            verdicts = [verifier.ask(answer, problem) for answer, problem in answers]
            verifier.forget()
            return [settle(verdict) for verdict in verdicts]

        yield verify


def settle(verdict: Asked) -> Verdict:
    """Wait for the verdict. Of several, one that is right, else one that failed, else the first."""
    if isinstance(verdict, tuple):
        verdicts = [settle(one) for one in verdict]
        return max(verdicts, key=lambda one: (one.is_right, one.is_fault))
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
