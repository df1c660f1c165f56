"""Folders and files that hold no model, or half of one: refused before anything is prepared, with the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.model.files import gguf_texts, weight_files
from rlvr.model.source import open_source
from rlvr.types import UserError

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture
def folder(base: Callable[[str], Path], tmp_path: Path) -> Path:
    shutil.copytree(base("llama"), tmp_path / "model")
    return tmp_path / "model"


def test_a_whole_model_is_taken(folder: Path) -> None:
    assert weight_files(folder) == [folder / "model.safetensors"]


def test_an_adapter_is_refused_with_the_way_to_merge_it(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "data/raw/mine"}))
    with pytest.raises(UserError, match=r"is an adapter.* base model \(data/raw/mine\) .*merge_and_unload"):
        weight_files(folder)


def test_a_pointer_of_git_lfs_is_told_from_half_a_download(folder: Path) -> None:
    weights = folder / "model.safetensors"
    half = weights.read_bytes()[: weights.stat().st_size // 2]
    weights.write_bytes(half)
    with pytest.raises(UserError, match=rf"it has {len(half):,} bytes: is it whole\? Download it again"):
        weight_files(folder)
    weights.write_text(POINTER)
    with pytest.raises(UserError, match="is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        weight_files(folder)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64).filter(lambda content: not content.startswith(b"version https://git-lfs")))
def test_any_other_content_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors holds no weights that can be read"):
        weight_files(folder)


def test_a_piece_that_is_missing_is_named(folder: Path) -> None:
    names = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(UserError, match=r"names model-00002-of-00002\.safetensors, which is missing"):
        weight_files(folder)


def test_weights_without_a_config_are_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        weight_files(folder)


def write_gguf(path: Path, architecture: str, **fields: int) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        writer.add_uint16(key.replace("_", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_piece_of_a_gguf_model_is_refused_with_the_command_that_joins_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is one of 3 pieces: .*llama-gguf-split --merge a-00001-of-00003\.gguf"):
        gguf_texts(write_gguf(tmp_path / "a-00001-of-00003.gguf", "llama", split_count=3))


def test_half_a_gguf_file_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", "llama", split_count=1)
    assert gguf_texts(whole)["general.architecture"] == "llama"
    for size in (0, 10, whole.stat().st_size - 3):
        (tmp_path / "half.gguf").write_bytes(whole.read_bytes()[:size])
        with pytest.raises(UserError, match=r"half\.gguf cannot be read as a GGUF model.*is it whole"):
            gguf_texts(tmp_path / "half.gguf")


def test_a_gguf_file_of_another_family_is_refused_with_its_name(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "other.gguf", "whisper")
    with pytest.raises(
        UserError, match=r"other\.gguf cannot be read as a GGUF model \(general\.architecture whisper\)"
    ):
        open_source(str(file), None, tmp_path, dtype="float32")
