"""The values that travel between the parts of the pipeline."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo", "sapo"]
Correction = Literal["off", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
Schedule = Literal["constant", "linear", "cosine"]
OptimizerKind = Literal["adamw", "adamw_8bit"]
SharePrompts = Literal["auto", "on", "off"]
AdvantageMethod = Literal["sum_then_normalize", "normalize_then_sum", "rloo"]
Message = dict[str, str]  # a turn of a chat: role and content


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of a message about an unknown `name`: the likely intended one, or nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class UserError(Exception):
    """An error the user can fix. The message says what was found, what is allowed and what to do."""


class StepFailed(UserError):
    """A step of training ended before it moved the policy: GRPO saves the state before it, and stops."""


class Interrupted(Exception):
    """The run stopped after a checkpoint because the user asked it to."""


@dataclass(frozen=True)
class Problem:
    """A question whose answer can be checked.

    `answer` is the gold that a verifier reads, `accepted` are others that are as right. `working` is a worked solution,
    empty when there is none; `solution` the answer as a model should write it, empty when that is the gold itself.
    `level` is 0 where the row has none. `columns` are the row's other columns. `context` are the turns of a
    conversation before the question; a system prompt among them replaces the project's.
    """

    id: str
    question: str
    answer: str
    working: str
    level: int
    solution: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()
    context: tuple[Message, ...] = ()

    @property
    def golds(self) -> tuple[str, ...]:
        """What verifiers compare with: the answer, and all others that are accepted."""
        return (self.answer, *self.accepted)


@dataclass(frozen=True)
class Prompt:
    """A problem as the model sees it: `tokens` end where the completion begins."""

    problem: Problem
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """One sampled answer.

    `token_ids` [n] are the sampled tokens, the end-of-sequence token included; `logp` [n] are their
    log-probabilities at the sampling temperature as the sampler saw them. `text` is what the rewards
    read: the opening tag if the prompt holds it, then the decoded tokens without the end of sequence.
    """

    token_ids: Tensor
    logp: Tensor
    text: str
    is_truncated: bool

    def answered(self) -> Answered:
        return Answered(self.text, len(self.token_ids), self.is_truncated)


@dataclass(frozen=True)
class Answered:
    """A completion as verifiers and rewards see it."""

    text: str
    num_tokens: int
    is_truncated: bool


@dataclass(frozen=True)
class Group:
    """The completions of one prompt."""

    prompt: Prompt
    completions: tuple[Completion, ...]


@dataclass(frozen=True)
class Totals:
    """Counts of a whole optimizer step, skipped groups included (B and N of docs/algorithms.md)."""

    rows: int
    tokens: int


@dataclass(frozen=True)
class LossSpec:
    """What the policy loss needs to know, as plain numbers.

    `epsilon_high` is resolved (never None): the upper clip distance, or for cispo the absolute cap.
    """

    loss_type: LossType
    epsilon: float
    epsilon_high: float
    delta: float | None
    beta: float
    kl_unbiased: bool
    importance_correction: Correction
    importance_min: float | None
    importance_max: float
    entropy_bonus: float
    max_completion_tokens: int
    temperature: float


def clip_high(epsilon: float, epsilon_high: float | None) -> float:
    """The upper clip distance (for cispo the absolute cap): `epsilon_high`, or `epsilon` where that is None."""
    return epsilon if epsilon_high is None else epsilon_high
