"""What the loop asks of a rollout engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rlvr.policy import Policy
    from rlvr.types import Group, Prompt


@dataclass(frozen=True)
class Sampling:
    """How to sample: temperature 0 takes the likeliest token. `max_rows` completions are generated at once."""

    temperature: float
    max_completion_tokens: int
    max_rows: int


class Sampler(Protocol):
    def sync(self, policy: Policy) -> None:
        """Sample from the weights of `policy` from now on."""

    def sample(
        self, prompts: Sequence[Prompt], completions_per_prompt: int, *, seed: tuple[int, ...]
    ) -> Iterator[Group]:
        """One group per prompt, in order, as they are finished. The same seed, weights and prompts, the same tokens."""
        ...
