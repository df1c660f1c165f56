"""The last lines of .ci/run: what was skipped, and what there was no time for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.left_out import line_of, summary

CASES = """
import pytest

def test_late(): pass

@pytest.mark.skip(reason="needs a GPU")
def test_gpu(): pass
"""


def test_reasons_are_counted_and_late_tests_are_named() -> None:
    lines = [
        line_of("a.py::x", "Skipped: needs a GPU"),
        line_of("a.py::y", "Skipped: needs a GPU"),
        line_of("a.py::y", "Skipped: needs a GPU"),  # in another run
        line_of("b.py::z", "Skipped: not begun within 9 seconds"),
    ]
    assert summary(lines) == "skipped: 2 × needs a GPU\nleft out: 1 slow tests not begun in time: b.py::z"


def test_nothing_was_left_out() -> None:
    assert summary([]) == "skipped: nothing\nleft out: nothing"


def test_a_run_writes_what_it_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    file, path = tmp_path / "left_out.jsonl", str(Path(__file__).parent)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.left_out", "-p", "no:cacheprovider", "--seconds=0"]
    done = subprocess.run(
        command, env=os.environ | {"RLVR_LEFT_OUT": str(file), "PYTHONPATH": path}, cwd=tmp_path, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "2 skipped" in done.stdout
    assert dict(json.loads(line) for line in file.read_text().splitlines()) == {
        "test_cases.py::test_late": "not begun within 0 seconds",
        "test_cases.py::test_gpu": "needs a GPU",
    }
