"""Cards and hashes depend on what made an artifact, and on nothing that changes between equal runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.config import Config
from rlvr.stages.provenance import hash_files, provenance, write_json


def test_a_card_holds_parameters_versions_and_device(make_config: Callable[..., Config]) -> None:
    cfg = make_config().restricted(["compute", "sft"])
    card = provenance(cfg, device="cpu")
    assert card["params"] == {"compute": cfg.compute.model_dump(), "sft": cfg.sft.model_dump()}
    assert card["device"] == "cpu"
    assert card["versions"]["torch"].startswith("2.")
    assert {"python", "transformers", "peft", "dvc", "snakemake"} <= card["versions"].keys()


def test_equal_runs_write_equal_cards(make_config: Callable[..., Config], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_json(tmp_path / name / "card.json", provenance(make_config(), device="cpu"))
    first = (tmp_path / "a" / "card.json").read_bytes()
    assert first == (tmp_path / "b" / "card.json").read_bytes()
    assert str(tmp_path).encode() not in first


def test_the_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": [1.5, None]})
    write_json(tmp_path / "b", {"y": [1.5, None], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1, "y": [1.5, None]}


class TestHash:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("data/base").mkdir(parents=True)
        Path("data/a.parquet").write_text("a")
        Path("data/base/b.json").write_text("b")

    def test_equal_files_have_equal_hashes(self) -> None:
        before = hash_files(Path("data"))
        Path("data/a.parquet").write_text("a")
        assert hash_files(Path("data")) == before

    @pytest.mark.parametrize("change", ["content", "name", "new file", "removed file", "deep content"])
    def test_any_change_under_a_folder_shows(self, change: str) -> None:
        before = hash_files(Path("data"))
        if change == "content":
            Path("data/a.parquet").write_text("A")
        elif change == "name":
            Path("data/a.parquet").rename("data/aa.parquet")  # the order stays
        elif change == "new file":
            Path("data/c").touch()
        elif change == "removed file":
            Path("data/a.parquet").unlink()
        else:
            Path("data/base/b.json").write_text("B")
        assert hash_files(Path("data")) != before

    def test_what_is_in_one_file_is_not_in_the_next(self) -> None:
        """Contents are hashed apart, so moving a byte over a border shows."""
        Path("x").write_text("ab")
        Path("y").write_text("c")
        before = hash_files(Path("x"), Path("y"))
        Path("x").write_text("a")
        Path("y").write_text("bc")
        assert hash_files(Path("x"), Path("y")) != before
