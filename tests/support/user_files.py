"""Files of a user: reward functions and verifiers, as the tests write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Write = Callable[..., str]


def user_folder() -> Write:
    """Make user/ in the current folder; a function that writes a source there and gives its path for params.yaml."""
    Path("user").mkdir()

    def write(source: str, name: str = "user/mine.py") -> str:
        Path(name).write_text(source)
        return name

    return write
