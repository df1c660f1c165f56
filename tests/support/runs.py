"""Training runs in tests: when they stop, and what their logs say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGING = ("time/", "memory/", "tokens/second")  # what may differ between equal runs


def stopping_after(steps: int) -> Callable[[], bool]:
    """The `stop` of a run that stops after so many more steps."""
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of train.jsonl without what may differ between equal runs."""
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.startswith(CHANGING)} for line in lines]
