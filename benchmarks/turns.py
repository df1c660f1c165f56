"""Two loops in one process that take turns, so that a machine that speeds up or slows down does so for both."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ENDS = 10  # steps at each end of a run whose means are compared


@dataclass
class Side:
    """What one loop did, a value per step."""

    loop_seconds: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    length: list[float] = field(default_factory=list)

    def note(self, seconds: float, *, reward: float, accuracy: float, length: float) -> None:
        self.step_seconds.append(seconds)
        self.reward.append(reward)
        self.accuracy.append(accuracy)
        self.length.append(length)

    def summary(self) -> dict[str, Any]:
        ends = {
            name: {"first_10": statistics.fmean(values[:ENDS]), "last_10": statistics.fmean(values[-ENDS:])}
            for name, values in (("reward", self.reward), ("accuracy", self.accuracy))
        }
        times = {"loop": _times(self.loop_seconds), "step": _times(self.step_seconds)}
        return times | ends | {"completion_mean_length": statistics.fmean(self.length)}


class Turns:
    """Two loops by name, each in its own thread, of which one runs at a time, for `block` steps."""

    def __init__(self, first: str, second: str, *, block: int) -> None:
        self.block = block
        self.sides = {first: Side(), second: Side()}
        self.other = {first: second, second: first}
        self.holder, self.finished = first, False
        self.changed = threading.Condition()
        self.since = 0.0

    def wait(self, name: str) -> None:
        """Return when `name` has the turn, with its clock started."""
        with self.changed:
            self.changed.wait_for(lambda: self.holder == name or self.finished)
        self.since = time.perf_counter()

    def step_done(self, name: str, untimed: Callable[[], None]) -> None:
        """Stop the clock, do what is not timed, and continue or hand over."""
        seconds = self.sides[name].loop_seconds
        seconds.append(time.perf_counter() - self.since)
        untimed()
        if len(seconds) % self.block == 0:
            self._give(self.other[name])
        self.wait(name)

    def finish(self, name: str) -> None:
        """`name` has ended, well or not: the other one is no longer kept waiting."""
        self.finished = True
        self._give(self.other[name])

    def _give(self, name: str) -> None:
        with self.changed:
            self.holder = name
            self.changed.notify_all()


def _times(seconds: list[float]) -> dict[str, float]:
    return {"total": sum(seconds), "mean": statistics.fmean(seconds), "median": statistics.median(seconds)}
