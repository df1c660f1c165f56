"""The prepare stage: earlier tables stay until new ones are complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from rlvr.stages import prepare
from rlvr.types import UserError

SMALL = {
    "prepare.train_problems": 8, "prepare.sft_problems": 4, "prepare.dev_problems": 2, "prepare.evaluation_problems": 2,
}  # fmt: skip


def test_a_prepare_that_fails_leaves_the_earlier_tables(
    make_params: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(changes: dict[str, Any]) -> None:
        with Path("params.yaml").open("w") as file:
            YAML().dump(make_params(SMALL | changes), file)
        prepare.main()

    run({})
    before = {path: path.read_bytes() for path in Path("data/prepared").rglob("*") if path.is_file()}
    assert Path("data/prepared/card.json") in before and Path("data/prepared/base/model.safetensors") in before
    with pytest.raises(UserError, match="max_prompt_tokens"):
        run({"prepare.max_prompt_tokens": 3})
    assert {path: path.read_bytes() for path in Path("data/prepared").rglob("*") if path.is_file()} == before
    run({"prepare.train_problems": 9})
    assert Path("data/prepared/train.parquet").read_bytes() != before[Path("data/prepared/train.parquet")]
