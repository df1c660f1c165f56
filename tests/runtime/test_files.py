"""Files that cannot be read, files that this clone does not have, and hashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.runtime.files import check_pulled, file_sha256, json_sha256, read_text, why_missing
from rlvr.types import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_with_or_without_a_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("größer: 1\n", encoding=encoding)
    assert read_text(tmp_path / "a.yaml") == "größer: 1\n"


@pytest.mark.parametrize("encoding, byte", [("latin-1", 2), ("cp1252", 2), ("utf-16", 0)])
def test_another_encoding_is_said_with_its_place(encoding: str, byte: int, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("größer: 1\n", encoding=encoding)
    with pytest.raises(UserError, match=rf"a\.yaml is not UTF-8 \(byte {byte}\): save it with that encoding"):
        read_text(tmp_path / "a.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize("asked", ["mine.csv", "folder/part/a.csv", "."])
def test_data_that_dvc_has_elsewhere(asked: str, tmp_path: Path) -> None:
    name = asked.partition("/")[0] if asked != "." else "mine.csv"
    (tmp_path / f"{name}.dvc").write_text(f"outs:\n- path: {name}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name} is kept in DVC .* not in this clone: run `dvc pull`"):
        check_pulled(tmp_path / asked)
    (tmp_path / name).mkdir() if "/" in asked else (tmp_path / name).write_text("question,answer\n", encoding="utf-8")
    check_pulled(tmp_path / asked)


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (tmp_path / "model.safetensors").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        check_pulled(tmp_path / "model.safetensors")


def test_a_queued_experiment_says_why_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert why_missing() == ""
    experiment = tmp_path / ".dvc/tmp/exps/tmp1"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    assert "`git add` (for data `dvc add`)" in why_missing()


def test_hashes_are_those_of_the_bytes_and_of_sorted_json(tmp_path: Path) -> None:
    """Checkpoints, runs and cards of earlier versions are found by them."""
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
    assert json_sha256({"b": 2.5, "a": (1, None)}) == json_sha256({"a": [1, None], "b": 2.5})
    assert json_sha256({"b": 2.5, "a": (1, None)}).startswith("5ed48174eccd93da")
