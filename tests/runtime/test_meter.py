"""Time and peak memory of a phase."""

from __future__ import annotations

import platform
import subprocess
import sys
import time

import pytest
import torch

from rlvr.runtime.meter import Meter

MEGABYTES = 1024**2
PHASES = """
import torch
from rlvr.runtime.meter import Meter
meter = Meter(torch.device("cpu"))
for name, megabytes in (("before", 0), ("large", 64), ("after", 0)):
    with meter.phase(name):
        torch.ones(megabytes * 1024**2 // 4).sum()
    print(meter.peak_bytes[name])
"""


@pytest.fixture
def meter() -> Meter:
    return Meter(torch.device("cpu"))


def test_a_phase_takes_the_time_it_takes(meter: Meter) -> None:
    with meter.phase("rollout"):
        time.sleep(0.2)
    with meter.phase("score"):
        pass
    assert 0.2 <= meter.seconds["rollout"] < 2.0
    assert meter.seconds["score"] < 0.2


def test_a_phase_replaces_that_of_the_step_before(meter: Meter) -> None:
    for pause in (0.2, 0.0):
        meter.begin_step()
        with meter.phase("rollout"):
            time.sleep(pause)
    assert meter.seconds["rollout"] < 0.2
    meter.begin_step()
    assert meter.seconds == meter.peak_bytes == {}


def test_the_parts_of_a_phase_add_up(meter: Meter) -> None:
    peaks = []
    for size in (64, 0):
        with meter.phase("rollout"):
            torch.ones(size * MEGABYTES // 4).sum()
            time.sleep(0.1)
        peaks.append(meter.peak_bytes["rollout"])
    assert 0.2 <= meter.seconds["rollout"] < 2.0
    assert peaks[0] == peaks[1]  # the largest of the parts


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux can reset the peak of a process")
def test_the_peak_is_that_of_the_phase_alone() -> None:
    """64 MB that are freed inside a phase count for it, and not for the next one; in a process with none to spare."""
    done = subprocess.run([sys.executable, "-c", PHASES], capture_output=True, text=True, check=True)
    before, large, after = map(int, done.stdout.split())
    assert large - before > 60 * MEGABYTES
    assert large - after > 60 * MEGABYTES


def test_tensors_are_counted_in_the_first_two_steps(meter: Meter) -> None:
    weight = torch.ones(1000)
    with meter.phase("load"):
        meter.count([weight])
    sizes = (1000, 3000, 9000)
    for size in sizes:
        meter.begin_step()
        with meter.phase("update"):
            torch.ones(size)
    assert meter.ledger.peaks["load"].allocated_bytes == 4000
    assert meter.ledger.peaks["update"].allocated_bytes == 4 * (1000 + 3000)
    assert set(meter.ledger.process_bytes) == {"load", "update"}


def test_a_phase_can_be_left_uncounted() -> None:
    meter = Meter(torch.device("cpu"), uncounted=("rollout",))
    meter.begin_step()
    for phase in ("rollout", "update"):
        with meter.phase(phase):
            torch.ones(1000)
    assert set(meter.ledger.peaks) == {"update"} and set(meter.peak_bytes) == {"rollout", "update"}


def test_a_phase_inside_another_is_part_of_its_time_and_not_of_its_peak(meter: Meter) -> None:
    with meter.phase("update"), meter.phase("optimizer"):
        time.sleep(0.1)
        torch.ones(MEGABYTES)
    assert 0.1 <= meter.seconds["optimizer"] <= meter.seconds["update"]
    assert meter.ledger.peaks["update"].allocated_bytes == 0
    assert meter.ledger.peaks["optimizer"].allocated_bytes == 4 * MEGABYTES


def test_what_is_measured_is_said(meter: Meter) -> None:
    assert meter.kind == "process resident memory"
    assert Meter(torch.device("cuda")).kind == "device memory allocated"
