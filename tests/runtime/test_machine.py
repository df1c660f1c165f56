"""What a machine refuses is one message with a remedy; other errors stay what they are."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from rlvr.runtime.machine import ALLOCATOR, CACHED, CACHES, bound_memory, check_folder, check_writable, explain
from rlvr.types import UserError


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "models/grpo/model.safetensors"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("unexpected pos 64: [enforce fail] write failed: No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 52352 vs 52244"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_full_disk(error: Exception) -> None:
    assert "no space left on the disk" in (explain(error) or "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_memory_that_ran_out(error: Exception) -> None:
    text = explain(error)
    assert text is not None
    assert text.startswith("out of memory: ")
    assert "memory.tokens_per_micro_batch" in text


def test_real_errors_are_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert (explain(caught.value) or "").startswith("out of memory")
    with pytest.raises(OSError) as refused:
        Path("/proc/nothing").mkdir()
    assert explain(refused.value) is None or "no permission" in (explain(refused.value) or "")
    with pytest.raises(OSError) as full, Path("/dev/full").open("w", encoding="utf-8") as file:
        file.write("x" * 100_000)
    assert "no space left" in (explain(full.value) or "")


def test_a_place_without_permission() -> None:
    error = OSError(errno.EROFS, "Read-only file system", "/srv/logs")
    assert explain(error) == (
        "no permission of /srv/logs (Read-only file system): change who may write there, or work in another folder"
    )


def test_a_fault_of_the_program_is_none_of_these() -> None:
    assert all(explain(error) is None for error in (ValueError("x"), KeyError("a"), FileNotFoundError(2, "no", "f")))


def test_braces_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a{b}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="rename that folder"):
        check_folder()


GROWS = """
import resource, sys
from pathlib import Path
from rlvr.runtime.machine import bound_memory
if sys.argv[1] == "bound":
    bound_memory()
import torch
from rlvr import linear
linear.HAS_AVX512 = True  # with AVX2 alone float32 does not go through oneDNN
torch.set_num_threads(1)
weight = torch.randn(256, 256, requires_grad=True)
def resident(first, last):
    for rows in range(first, last):
        linear.linear(torch.randn(rows, 256), weight).sum().backward()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
before = resident(1, 101)
print(resident(101, 601) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)

    def grown(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", GROWS, how], capture_output=True, encoding="utf-8", check=True)
        return int(done.stdout)

    bound, free = grown("bound"), grown("free")
    assert bound < free / 3, f"{bound} KiB and {free} KiB"


def test_a_bound_that_a_person_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHES[0], "7")
    monkeypatch.delenv(CACHES[1], raising=False)
    bound_memory()
    assert (os.environ[CACHES[0]], os.environ[CACHES[1]]) == ("7", str(CACHED))


@pytest.mark.parametrize("name", ALLOCATOR)
def test_an_allocator_that_a_person_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in ALLOCATOR:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "max_split_size_mb:64")
    bound_memory()
    assert {each: os.environ.get(each) for each in ALLOCATOR if each in os.environ} == {name: "max_split_size_mb:64"}
    monkeypatch.delenv(name)
    bound_memory()
    assert os.environ.pop(ALLOCATOR[0]) == "expandable_segments:True"


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable([tmp_path / "models/grpo", tmp_path])
    assert list((tmp_path / "models/grpo").iterdir()) == []


@pytest.mark.parametrize("name", ["logs", "logs/deeper"])
def test_a_file_in_the_place_of_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(UserError, match=r"logs.* is where the results go, and cannot be written to"):
        check_writable([tmp_path / name])


def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    mounted = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own needs root: mount -t tmpfs")
    try:
        with pytest.raises(UserError, match=r"cannot be written to: no permission .* \(Read-only file system\)"):
            check_writable([tmp_path / "models"])
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
