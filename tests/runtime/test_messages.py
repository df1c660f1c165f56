"""Notes and warnings begin with the word, and are seen at once in a log."""

from __future__ import annotations

import pytest

from rlvr.runtime.messages import note, warn


def test_each_begins_with_its_word(capsys: pytest.CaptureFixture[str]) -> None:
    note("the cache is empty")
    warn("the disk is full")
    assert capsys.readouterr().out == "note: the cache is empty\nwarning: the disk is full\n"
