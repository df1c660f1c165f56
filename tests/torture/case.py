"""One fault to provoke, and what a stage may say of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Case:
    """`what` is provoked by `attempt` in an empty folder. It raises AssertionError with what happened instead."""

    what: str
    attempt: Callable[[Path], None]


class Skipped(Exception):
    """The fault cannot be provoked on this machine; the message says why."""


def spread(items: Sequence[Item], count: int) -> Iterator[Item]:
    """`count` of the items at even distances, or all."""
    number = min(count, len(items))
    for i in range(number):
        yield items[(2 * i + 1) * len(items) // (2 * number)]


def check_silent(text: str) -> None:
    """No traceback in what was printed."""
    assert "Traceback" not in text, f"a traceback:\n{tail(text)}"


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def check_one_error(text: str) -> str:
    """The one line that says what is wrong."""
    check_silent(text)
    found = errors(text)
    assert len(found) == 1, f"{len(found)} lines of error:\n{tail(text)}"
    return found[0]


def names_a_process(text: str) -> bool:
    """Whether a refusal says who is in the way."""
    return re.search(r"PID \d+|process \d+", text) is not None


def tail(text: str, lines: int = 8) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:])
