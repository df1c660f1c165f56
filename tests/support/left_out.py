"""What a run of the tests leaves out: a plugin that writes it down, and the summary that .ci/run ends with.

`python tests/support/left_out.py FILE` sums up the lines of all runs that had FILE in RLVR_LEFT_OUT.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

STARTED = time.monotonic()
NOT_BEGUN = "not begun"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, default=None, help="skip what has not begun after that many seconds")


def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--seconds")
    if seconds is not None and time.monotonic() - STARTED > seconds:
        pytest.skip(f"{NOT_BEGUN} within {seconds:.0f} seconds")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Add a line for each skip to the file that RLVR_LEFT_OUT names."""
    if path := os.environ.get("RLVR_LEFT_OUT"):
        with Path(path).open("a") as file:
            for report in terminalreporter.stats.get("skipped", []):
                file.write(line_of(report.nodeid, report.longrepr[2]))


def line_of(name: str, reason: str) -> str:
    return json.dumps([name, reason.removeprefix("Skipped: ")]) + "\n"


def summary(lines: list[str]) -> str:
    """How often each reason skipped a test, and last the tests that --seconds left no time for."""
    skipped: dict[str, str] = dict(json.loads(line) for line in lines)
    late = sorted(name for name, reason in skipped.items() if reason.startswith(NOT_BEGUN))
    reasons = Counter(reason for reason in skipped.values() if not reason.startswith(NOT_BEGUN))
    counts = [f"skipped: {count} × {reason}" for reason, count in reasons.most_common()]
    last = f"{len(late)} slow tests not begun in time: {', '.join(late)}" if late else "nothing"
    return "\n".join([*(counts or ["skipped: nothing"]), f"left out: {last}"])


if __name__ == "__main__":
    file = Path(sys.argv[1])
    print(summary(file.read_text().splitlines() if file.exists() else []))
