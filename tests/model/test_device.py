"""Which device a run takes, and what it says of a GPU that torch cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlvr.model.device import device_named, unused_gpu
from rlvr.types import UserError

VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Oct 25 2023\nGCC version:  gcc version 12.2.0"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (root@host)\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose driver is what is written to this file, and whose torch sees no GPU."""
    file = tmp_path / "version"
    monkeypatch.setattr("rlvr.model.device.DRIVER", file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return file


@pytest.mark.parametrize("text", [VERSION, OPEN])
@pytest.mark.parametrize(
    ("version", "cuda", "said"),
    [
        ("550.54.15", "13.0", "driver 550.54.15, and CUDA 13.0 of torch needs 580 or newer: update the driver"),
        ("470.256", "12.8", "driver 470.256, and CUDA 12.8 of torch needs 525 or newer"),
        ("580.65.06", "13.0", "driver 580.65.06, which torch does not see: look at nvidia-smi"),
        ("550.54.15", "12.8", "driver 550.54.15, which torch does not see"),
        ("580.65.06", None, "built for CPUs only: install torch with CUDA"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_told_with_the_remedy(
    text: str,
    version: str,
    cuda: str | None,
    said: str,
    driver: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    driver.write_text(text.format(version))
    assert device_named("auto") == torch.device("cpu")
    assert said in capsys.readouterr().out
    with pytest.raises(UserError, match=said):
        device_named("cuda")
    assert device_named("cpu") == torch.device("cpu")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [None, "", "NVRM version: none"])
def test_without_a_driver_nothing_is_told(
    content: str | None, driver: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        driver.write_text(content)
    assert unused_gpu() is None
    device_named("auto")
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"cannot use here; use auto or cpu"):
        device_named("cuda")
