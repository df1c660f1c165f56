"""Pools of a project in its own folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import Config
from rlvr.tasks import TASKS, Pools

Load = Callable[..., Pools]


@pytest.fixture
def load(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """The pools of a table; keywords are settings of prepare.records, with __ for a dot."""
    monkeypatch.chdir(tmp_path)
    Path("data/raw").mkdir(parents=True)

    def make(source: str = "data/raw/mine.csv", *, seed: int = 0, **changes: Any) -> Pools:
        values = {"source": source, **{key.replace("__", "."): value for key, value in changes.items()}}
        params = {f"prepare.records.{key}": value for key, value in values.items()}
        fewer = {"prepare.sft_problems": 0, "sft.enabled": False, "prepare.task": "records"}
        return TASKS["records"](make_config(fewer | params).prepare, seed)

    return make
