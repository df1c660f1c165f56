"""Progress in a log: the first line, one now and then, the last; and how much time is left."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rlvr.runtime.progress import SECONDS_BETWEEN_LINES, progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr("rlvr.runtime.progress.time", fake)
    return fake


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_line_at_the_start_at_the_end_and_every_few_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("grpo", 40) as show:
        for done in range(1, 41):
            clock.now += 1.0
            show(done)
    steps = [int(line.split()[1].split("/")[0]) for line in lines(capsys)]
    assert steps[0] == 1 and steps[-1] == 40
    gaps = [b - a for a, b in pairwise(steps)]
    assert set(gaps[:-1]) == {SECONDS_BETWEEN_LINES}


def test_values_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten seconds a step."""
    with progress("grpo", 1000) as show:
        for done in (1, 2, 3):
            clock.now += 10.0
            show(done, reward=13.456789, speed=12345.6)
    last = lines(capsys)[-1]
    assert last.startswith("grpo 3/1000  reward 13.5  speed 12346")
    assert last.endswith("left 2:46:10")


def test_time_left_of_a_resumed_run_counts_its_own_steps(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("grpo", 300) as show:
        for done in (291, 292, 293):
            clock.now += 10.0
            show(done)
    assert lines(capsys)[-1].endswith("left 1:10")
