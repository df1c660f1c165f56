"""A disk that is too small ends a run before its first step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlvr.model.policy import Policy
from rlvr.training.disk import check_room, room
from rlvr.training.optim import Optimizer
from rlvr.training.run import Run
from rlvr.types import OptimizerKind, UserError


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_what_is_counted_is_what_is_written(
    kind: OptimizerKind, tmp_path: Path, make_policy: Callable[..., Policy]
) -> None:
    """Up to the headers of the files."""
    policy = make_policy(dtype=torch.float32)
    optimizer = Optimizer(
        policy.trainable(), learning_rate=0.01, warmup_steps=0, betas=(0.9, 0.99), weight_decay=0.0,
        schedule="constant", total_steps=9, kind=kind, on_host=False, scales_loss=False,
    )  # fmt: skip
    for weight in policy.trainable().values():
        weight.grad = torch.ones_like(weight)
    optimizer.step_clipped(1.0)
    run = Run(tmp_path)
    for step in (1, 2):
        run.save(step, policy, optimizer, {})
    weights = list(policy.trainable().values())
    model = sum(weight.nbytes for weight in weights)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) / 2 * 3 + 2 * model
    assert 0.8 * written < room(weights, kind) < 1.05 * written


def test_a_full_disk_is_told_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [torch.empty(2**20, device="meta")] * 100
    needed = room(weights, "adamw")
    assert needed == 100 * 4 * 2**20 * 11
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed - 1))
    with pytest.raises(UserError, match=r"up to 4.30 GiB .* has 4.30 GiB free"):
        check_room(tmp_path, weights, "adamw")
    (tmp_path / "saved").write_bytes(b"x")  # by the run that resumes
    check_room(tmp_path, weights, "adamw")
