"""The options of a judge in params.yaml, and the arguments of its worker process.

verdicts.py runs in that process and asks an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlvr.runtime.files import EXPERIMENTS
from rlvr.types import Answered, Problem

NAME = "judge"
TARGET = "rlvr.rewards.judge.verdicts:call"
FOLDER = ".judge"  # verdicts and money spent; it outlives a run, so that a stored verdict costs nothing
MOST_SECONDS, MOST_RETRIES = 86_400.0, 1000
LONGEST_WAIT_SECONDS = 60.0  # between two tries; a server that asks for more counts as down


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a judge in params.yaml. Raises ValueError for values that cannot work.

    `seconds` limits one request, `concurrency` the requests of all processes together. `max_cost` is in the currency of
    the prices, over all runs in this folder. `api_key_env` is empty for a server without a key.
    """

    base_url: str
    model: str
    api_key_env: str
    instructions: str
    low: float
    high: float
    seconds: float
    retries: int
    concurrency: int
    max_cost: float
    price_per_million_input: float
    price_per_million_output: float
    max_output_tokens: int
    max_characters: int

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url {self.base_url!r} must begin with https:// or http://, and usually ends in /v1")
        for name in ("model", "instructions"):
            if not asdict(self)[name].strip():
                raise ValueError(f"{name} must not be empty")
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        for name, least in (("concurrency", 1), ("max_output_tokens", 1), ("max_characters", 1), ("retries", 0)):
            if asdict(self)[name] < least:
                raise ValueError(f"{name} {asdict(self)[name]} must be at least {least}")
        if not 0 < self.seconds <= MOST_SECONDS:
            raise ValueError(f"seconds {self.seconds:g} must be above 0, and at most {MOST_SECONDS:.0f}, a day")
        if self.retries > MOST_RETRIES:
            raise ValueError(f"retries {self.retries} must be at most {MOST_RETRIES}")
        for name in ("max_cost", "price_per_million_input", "price_per_million_output"):
            if asdict(self)[name] < 0:
                raise ValueError(
                    f"{name} {asdict(self)[name]:g} must not be negative; use 0 for a server that costs nothing"
                )


def find_key(options: Options) -> str:
    """The key from the environment; empty if none is needed. Raises ValueError if it is missing."""
    if not options.api_key_env:
        return ""
    key = os.environ.get(options.api_key_env, "").strip()
    if not key:
        raise ValueError(
            f"the environment variable {options.api_key_env}, which api_key_env names, is not set: "
            f"export {options.api_key_env}=... first, or set api_key_env to '' for a server without a key"
        )
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"the environment variable {options.api_key_env} contains characters that no key has")
    return key


def longest_seconds(num_completions: int, options: Options) -> float:
    """The longest time until `num_completions`, in all concurrent calls, have scores or messages, even if all fail.

    Each of the two questions to the judge is one request and up to `retries` more, with waits between them.
    """
    rounds = math.ceil(num_completions / options.concurrency)
    return rounds * 2 * (options.seconds * (options.retries + 1) + LONGEST_WAIT_SECONDS * options.retries)


def arguments(
    name: str, options: Mapping[str, Any], problem: Problem, completions: Sequence[Answered]
) -> dict[str, Any]:
    """The arguments of TARGET for the completions of one question; `name` is the name of the reward."""
    items = [
        {"question": problem.question, "completion": completion.text, "answer": problem.answer}
        for completion in completions
    ]
    return {"items": items, "name": name, "folder": str(folder()), **options}


def folder() -> Path:
    """Where verdicts and costs are kept: in the project. An experiment in a copy of it shares them, and the cap."""
    here, experiment, _ = Path.cwd().as_posix().partition(EXPERIMENTS)
    return Path(here, FOLDER) if experiment else Path(FOLDER)
