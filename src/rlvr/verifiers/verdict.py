"""What a verifier says of an answer: right, wrong, that it does not apply, or that we failed. Never points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

Outcome = Literal["right", "wrong", "not_applicable", "fault"]

# Why an answer is wrong before its content was judged (the completion's fault) …
MISSING, UNPARSABLE, TIMEOUT, MEMORY, OUTPUT, CRASH = "missing", "unparsable", "timeout", "memory", "output", "crash"
# … and why nothing can be said (ours).
WORKER, GOLD, ENDPOINT = "worker", "gold", "endpoint"


@dataclass(frozen=True)
class Verdict:
    """`cause` is one of the words above, or None for a plain right or wrong; `message` is for people.

    `details` are numbers that reward functions may read, such as tests_passed and tests_total.
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
        """Whether the failure is ours: the completion is then unscorable, not wrong."""
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
    """Wrong by the completion's own fault, counted by `cause`."""
    return Verdict("wrong", cause, message)


def fault(cause: str, message: str) -> Verdict:
    """Not judged, by our fault."""
    return Verdict("fault", cause, message)
