"""Sections verifiers and rewards."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from rlvr.config.base import Name, NonNegative, Positive, Seconds, Section
from rlvr.rewards import FUNCTIONS, custom
from rlvr.rewards.functions import check_values
from rlvr.rewards.judge import options as judge
from rlvr.types import nearest
from rlvr.verifiers import VERIFIERS


class NumberVerifier(Section):
    tolerance: NonNegative


class PythonVerifier(Section):
    wall_seconds: Seconds
    cpu_seconds: Seconds
    memory_mib: Positive
    file_mib: Positive
    processes: Positive
    output_kib: Positive

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.cpu_seconds >= self.wall_seconds:
            raise ValueError(f"cpu_seconds {self.cpu_seconds:g} must be below wall_seconds {self.wall_seconds:g}")
        if self.output_kib >= 1024 * self.file_mib:
            raise ValueError(
                f"output_kib {self.output_kib} must be below file_mib {self.file_mib} ({1024 * self.file_mib} KiB): "
                "what a program prints goes through a file"
            )
        return self


class Verifiers(Section):
    answer: Name
    sandbox: Literal["bubblewrap", "rlimits-only"]
    workers: Positive
    seconds: Seconds
    memory_mib: Positive
    function_seconds: Seconds
    number: NumberVerifier
    python: PythonVerifier

    @model_validator(mode="after")
    def _exists(self) -> Self:
        _check_verifier("answer", self.answer)
        if self.python.memory_mib > self.memory_mib:
            raise ValueError(
                f"python.memory_mib {self.python.memory_mib} is above memory_mib {self.memory_mib}, which also holds "
                "for what a worker process starts; raise that one"
            )
        return self


class Reward(Section):
    """`function` is a name of FUNCTIONS or judge (absent: the reward's own name), `python` a function of the user's.

    `verifier` names whose verdict the function reads (absent: verifiers.answer). With `when` the function applies to
    completions with that verdict only. For `python`: `sandbox` runs it in the sandbox of programs; `messages` says
    whether it reads chats or texts (absent: as its code does).
    """

    weight: float
    options: dict[str, Any] = Field(default_factory=dict)
    function: Name | None = None
    python: Name | None = None
    verifier: Name | None = None
    when: Literal["right", "wrong"] | None = None
    sandbox: bool = False
    messages: bool | None = None


def check_rubric(rewards: Mapping[str, Reward], *, max_completion_tokens: int) -> None:
    """Raise ValueError for the first reward that cannot work, and for a rubric without weight."""
    for name, reward in rewards.items():
        key = f"rewards.{name}"
        if reward.verifier is not None:
            _check_verifier(f"{key}.verifier", reward.verifier)
        if reward.python is not None:
            if reward.function is not None:
                raise ValueError(f"{key}: give function ({reward.function}) or python ({reward.python}), not both")
            try:
                custom.check(reward.python, options=reward.options)
            except ValueError as error:
                raise ValueError(f"{key}.{error}") from None
            continue
        if reward.sandbox or reward.messages is not None:
            raise ValueError(f"{key}: sandbox and messages are for your own functions (python)")
        function = reward.function or name
        known = [*FUNCTIONS, judge.NAME]
        if function not in known:
            raise ValueError(
                f"{key}: unknown reward function; known: {', '.join(known)}{nearest(function, known)}; "
                "name your own function by its file: python: user/my_rewards.py:my_function"
            )
        if function == judge.NAME:
            _check_judge(key, reward.options)
            continue
        check_options(key, FUNCTIONS[function], reward.options)
        check_values(f"{key}.options", function, reward.options, max_completion_tokens=max_completion_tokens)
    if not any(reward.weight for reward in rewards.values()):
        raise ValueError("rewards: at least one reward function needs a weight other than 0")


def check_options(key: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ValueError unless `options` are exactly the keyword-only parameters of `function`, of their types."""
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    expected = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if set(options) != set(expected):
        raise ValueError(
            f"{key}.options must be exactly {', '.join(expected) or 'empty'}; "
            f"missing: {', '.join(name for name in expected if name not in options) or 'none'}; "
            f"unknown: {', '.join(name for name in options if name not in expected) or 'none'}"
        )
    for name in expected:
        try:
            TypeAdapter(hints[name], config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(options[name])
        except ValidationError as error:
            value = options[name]
            raise ValueError(
                f"{key}.options.{name}: {value!r} ({type(value).__name__}): {error.errors()[0]['msg']}"
            ) from None


def _check_judge(key: str, options: Mapping[str, Any]) -> None:
    check_options(key, judge.Options, options)
    try:
        judge.Options(**options)
    except ValueError as error:
        raise ValueError(f"{key}.options: {error}") from None


def _check_verifier(key: str, name: str) -> None:
    if ":" in name or name.endswith(".py"):
        try:
            custom.check_verifier(name)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    elif name not in VERIFIERS:
        raise ValueError(
            f"{key}: unknown verifier {name!r}; known: {', '.join(VERIFIERS)}{nearest(name, VERIFIERS)}; "
            "name your own by its file: user/my_verifier.py:my_function"
        )
