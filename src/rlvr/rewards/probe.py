"""The user's functions loaded once before they are needed: where they will run, and with its limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from rlvr.rewards import custom, sandboxed
from rlvr.types import UserError
from rlvr.verifiers.sandbox import run as sandbox
from rlvr.verifiers.sandbox.run import ProgramLimits
from rlvr.verifiers.verify import SANDBOX_START_SECONDS, VerifierSettings, open_workers, options_of
from rlvr.verifiers.workers.pool import LOAD_SECONDS, Reply, Workers

ROOM, STEP_MIB = 1.5, 256  # a library takes more memory when it is used than when it is loaded
NO_LIMIT = 2**60


class OwnFunction(Protocol):
    @property
    def python(self) -> str | None: ...
    @property
    def verifier(self) -> str | None: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def sandbox(self) -> bool: ...


def job(settings: VerifierSettings, function: str, arguments: dict[str, Any], *, in_sandbox: bool) -> dict[str, Any]:
    """The target, arguments and deadline of a call of workers/own.py, as Workers.submit takes them."""
    if not in_sandbox:
        target = f"rlvr.verifiers.workers.own:{function}"
        return {"target": target, "arguments": arguments, "seconds": settings.function_seconds}
    python, seconds = settings.python.model_dump(), settings.function_seconds
    limits = ProgramLimits(
        wall_seconds=seconds,
        cpu_seconds=seconds,
        memory_bytes=python["memory_mib"] * 2**20,
        file_bytes=python["file_mib"] * 2**20,
        processes=python["processes"],
        output_bytes=python["output_kib"] * 2**10,
    )
    call = {"function": function, "arguments": arguments, "limits": asdict(limits), "kind": settings.sandbox}
    return {"target": sandboxed.TARGET, "arguments": call, "seconds": seconds + SANDBOX_START_SECONDS}


def signatures(
    rubric: Mapping[str, OwnFunction], settings: VerifierSettings, workers: Workers
) -> dict[str, custom.Signature]:
    """The signatures of the user's functions in the rubric, by reward. Their files are run.

    Raises UserError, naming the reward, for one that cannot be loaded, with what to change, or cannot be called.
    """
    by_reward = {}
    if any(reward.sandbox for reward in rubric.values()):
        sandbox.check(options_of(settings, "python")["kind"])
    for name, reward in rubric.items():
        if reward.python is None:
            continue
        loaded = _loaded(f"rewards.{name}", reward.python, settings, workers, in_sandbox=reward.sandbox)
        try:
            by_reward[name] = custom.signature_of(
                [tuple(one) for one in loaded["parameters"]], reward.python, reward.options, loaded["constructor"]
            )
        except ValueError as error:
            raise UserError(f"rewards.{name}.{error}") from None
    return by_reward


def check_functions(rubric: Mapping[str, OwnFunction], settings: VerifierSettings) -> None:
    """Raise UserError unless every function of the user's that the settings name can be loaded and called."""
    names = {settings.answer, *(reward.verifier for reward in rubric.values() if reward.verifier)}
    with open_workers(settings) as workers:
        verifiers(names, settings, workers)
        signatures(rubric, settings, workers)


def verifiers(names: Collection[str], settings: VerifierSettings, workers: Workers) -> None:
    """Raise UserError for a verifier of the user's own that cannot be loaded."""
    for name in names:
        if ":" in name:
            _loaded("verifiers.answer", name, settings, workers, in_sandbox=False)


def _loaded(key: str, spec: str, settings: VerifierSettings, workers: Workers, *, in_sandbox: bool) -> dict[str, Any]:
    path, _, function = spec.partition(":")
    arguments = {"path": path, "function": function}
    call = job(settings, "signature", arguments, in_sandbox=in_sandbox)
    reply = workers.submit(**call | {"seconds": LOAD_SECONDS}).result()
    if reply.failure is None:
        loaded: dict[str, Any] = reply.value
        return loaded
    if in_sandbox:
        remedy = "the sandbox has the standard library only, and verifiers.python.memory_mib of memory"
        raise UserError(f"{key}: {spec} cannot be loaded: {reply.message}; {remedy}")
    with Workers(1, memory_bytes=NO_LIMIT) as free:
        again = free.submit(**call | {"seconds": LOAD_SECONDS}).result()
    raise UserError(f"{key}: {spec} cannot be loaded{_reason(settings, reply, again)}")


def _reason(settings: VerifierSettings, reply: Reply, without_limit: Reply) -> str:
    if without_limit.failure is not None:
        return f": {without_limit.failure}: {without_limit.message}"
    needed_mib = without_limit.value["peak_bytes"] / 2**20
    enough = STEP_MIB * -int(-ROOM * needed_mib // STEP_MIB)
    return (
        f" in {settings.memory_mib} MiB of address space ({reply.message}), while it takes {needed_mib:,.0f} MiB to "
        f"load: raise verifiers.memory_mib to {enough} or more"
    )
