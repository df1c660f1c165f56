"""What the loop asks of a rollout engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rlvr.memory.views import Views
    from rlvr.model.policy import Policy
    from rlvr.types import Group, Prompt


@dataclass(frozen=True)
class Sampling:
    """How to sample: temperature 0 takes the likeliest token. `max_rows` completions are generated at once.

    There is no top_p, top_k or min_p: the trainer's log-probabilities are those of the whole vocabulary.
    """

    temperature: float
    max_completion_tokens: int
    max_rows: int


class Sampler(Protocol):
    """resume → sync → sample, as often as wanted → release; and close at the end."""

    def base_tensors(self) -> Views | None:
        """The engine's frozen weights for load_policy to build on; None when there are none to share."""
        ...

    def resume(self) -> None:
        """Take the memory that sampling needs."""

    def sync(self, policy: Policy) -> None:
        """Sample from the current weights of `policy` from now on."""

    def at(self, temperature: float) -> Self:
        """The same engine with the same weights, at another temperature."""
        ...

    def sample(
        self, prompts: Sequence[Prompt], completions_per_prompt: int, *, seed: tuple[int, ...]
    ) -> Iterator[Group]:
        """One group per prompt, each as soon as it is finished. The same seed, weights and prompts, the same tokens."""
        ...

    def release(self) -> None:
        """Free memory for the update; `resume` takes it back."""

    def close(self) -> None:
        """Free everything; the sampler cannot be used again."""
