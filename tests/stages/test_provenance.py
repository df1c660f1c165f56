"""Cards and hashes depend on what made an artifact, and on nothing that changes between equal runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.config import Config
from rlvr.stages.provenance import (
    CARD,
    COMMITS,
    check_files,
    commit,
    hash_files,
    note_commit,
    provenance,
    write_card,
    write_json,
)
from rlvr.types import UserError


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


def test_the_commit_is_kept_apart_and_says_whether_files_were_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commit() is None
    note_commit("sft")
    for name in ("params.yaml", "dvc.lock"):
        Path(name).write_text("a", encoding="utf-8")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    head = commit()
    assert head is not None and len(head) == 40
    Path("dvc.lock").write_text("b", encoding="utf-8")
    Path("new").write_text("untracked", encoding="utf-8")
    assert commit() == head
    Path("params.yaml").write_text("b", encoding="utf-8")
    assert commit() == f"{head}-dirty"
    note_commit("grpo")
    assert json.loads(COMMITS.read_text(encoding="utf-8")) == {"sft": None, "grpo": f"{head}-dirty"}


@pytest.mark.parametrize("damage", [b"", b"weights?", None])
def test_a_damaged_output_of_an_earlier_stage_is_named(damage: bytes | None, tmp_path: Path) -> None:
    weights = tmp_path / "base/model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights!")
    write_card(tmp_path, {"enabled": True})
    (tmp_path / "more.txt").touch()
    check_files(tmp_path, "sft")
    if damage is None:
        weights.unlink()
    else:
        weights.write_bytes(damage)
    with pytest.raises(UserError, match=rf"{weights} is (missing|damaged or was edited).*run `rlvr sft`"):
        check_files(tmp_path, "sft")


@pytest.mark.parametrize("damage", [b"", b"[]", b"{"])
def test_a_damaged_card_is_named(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / CARD).write_bytes(damage)
    with pytest.raises(UserError, match=r"card\.json is damaged .*: run `rlvr prepare`"):
        check_files(tmp_path, "prepare")
