"""Show the progress of long work: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS_BETWEEN_LINES = 5.0


class Show(Protocol):
    def __call__(self, done: int, **values: float | None) -> None: ...


@contextmanager
def progress(title: str, total: int) -> Iterator[Show]:
    """Yield a callback that reports a finished step; it appends the estimated time left."""
    with _bar(title, total) if sys.stdout.isatty() else _lines(title, total) as show:
        yield show


@contextmanager
def _lines(title: str, total: int) -> Iterator[Show]:
    first: tuple[int, float] | None = None  # a resumed run does not begin at 0, so the rate counts from the first call
    last = 0.0

    def show(done: int, **values: float | None) -> None:
        nonlocal first, last
        now = time.monotonic()
        if first is not None and now - last < SECONDS_BETWEEN_LINES and done != total:
            return
        parts = [f"{title} {done}/{total}", *_texts(values)]
        if first is None:
            first = done, now
        elif done > first[0]:
            parts.append(f"left {_clock((now - first[1]) / (done - first[0]) * (total - done))}")
        last = now
        print("  ".join(parts), flush=True)

    yield show


@contextmanager
def _bar(title: str, total: int) -> Iterator[Show]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda done, **values: bar.update(task, completed=done, text="  ".join(_texts(values)))


def _texts(values: dict[str, float | None]) -> list[str]:
    known = {name: value for name, value in values.items() if value is not None}
    return [f"{name} {value:.0f}" if abs(value) >= 1000 else f"{name} {value:.3g}" for name, value in known.items()]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
