"""The verdict of a verifier on an answer: right, wrong, not applicable, or a fault. Never points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

Outcome = Literal["right", "wrong", "not_applicable", "fault"]

# Causes of a wrong answer whose content was never compared …
MISSING, UNPARSABLE, TIMEOUT, MEMORY, OUTPUT, CRASH = "missing", "unparsable", "timeout", "memory", "output", "crash"
ECHO = "echo"  # … or that only copies the question …
# … and causes of a fault: the verification itself failed.
WORKER, GOLD, ENDPOINT = "worker", "gold", "endpoint"


@dataclass(frozen=True)
class Verdict:
    """An outcome with its reasons. `cause` is one of the words above, or None for a plain right or wrong.

    `message` is for people. `details` are numbers for reward functions, such as tests_passed and tests_total.
    """

    outcome: Outcome
    cause: str | None = None
    message: str = ""
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        return self.outcome == "right"

    @property
    def is_fault(self) -> bool:
        """Whether the verification failed: the completion is then unscorable, not wrong."""
        return self.outcome == "fault"

    def __str__(self) -> str:
        return self.outcome if self.cause is None else f"{self.outcome}: {self.cause}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)


RIGHT, WRONG, NOT_APPLICABLE = Verdict("right"), Verdict("wrong"), Verdict("not_applicable")


def right_if(is_right: bool) -> Verdict:
    return RIGHT if is_right else WRONG


def wrong(cause: str, message: str = "") -> Verdict:
    """Wrong because of the completion, counted by `cause`."""
    return Verdict("wrong", cause, message)


def fault(cause: str, message: str) -> Verdict:
    """Not verified, because the verification failed."""
    return Verdict("fault", cause, message)
