"""Tables in a pipe: one line for each row, whatever a cell holds."""

from __future__ import annotations

import pytest

from rlvr.runtime.printing import CELL_WIDTH, print_table


def test_columns_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "points"], [["a", "1"], ["longer", "-2.5"]])
    assert capsys.readouterr().out.split("\n") == ["name    points", "a       1", "longer  -2.5", ""]


def test_a_cell_is_one_line_that_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["text"], [["a\nb\t\0\ud800\x1b[31m"], ["begin" + "x" * 10**6 + "end"], [""]])
    lines = capsys.readouterr().out.split("\n")
    assert lines[1] == "a\\nb\\t\\x00\\ud800\\x1b[31m"
    assert len(lines[2]) == CELL_WIDTH
    assert lines[2].startswith("begin")
    assert lines[2].endswith("end")
    assert len(lines) == 5


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [])
    assert capsys.readouterr().out == "a  b\n"
