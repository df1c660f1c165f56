"""Every auto of params.yaml becomes a value: what a GPU, a CPU and the user's own word make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlvr.config import Config
from rlvr.stages.resolve import resolve, resolve_training

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TILES = {"memory.tile_rows": 2048, "compute.dtype": "bfloat16", "model.adapter": "lora"}
MakeConfig = Callable[..., Config]


@pytest.mark.parametrize(("device", "is_cuda"), [(CPU, False), (CUDA, True)], ids=str)
def test_auto_is_what_the_device_is_good_at(device: torch.device, is_cuda: bool, make_config: MakeConfig) -> None:
    resolved = resolve_training(make_config(TILES), device=device)
    assert resolved.kernels == ("triton" if is_cuda else "torch")
    assert resolved.offload == resolved.states_on_host == is_cuda
    assert resolved.is_eager != is_cuda
    assert (resolved.dtype, resolved.max_logp_gap) == (torch.bfloat16, 0.1)


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("switch", ["on", "off"])
def test_the_users_word_counts_on_every_device(device: torch.device, switch: str, make_config: MakeConfig) -> None:
    words = {"memory.offload": switch, "memory.optimizer_on_host": switch, "rollout.vllm.enforce_eager": switch}
    more = {"memory.kernels": "torch", "rollout.max_logp_gap": 0.25}
    resolved = resolve_training(make_config(TILES | words | more), device=device)
    assert {resolved.offload, resolved.states_on_host, resolved.is_eager} == {switch == "on"}
    assert (resolved.kernels, resolved.max_logp_gap) == ("torch", 0.25)


def test_nothing_is_offloaded_without_layers_that_are_recomputed(make_config: MakeConfig) -> None:
    resolved = resolve_training(make_config({"compute.dtype": "bfloat16", "model.adapter": "lora"}), device=CUDA)
    assert resolved.tile_rows is None and not resolved.offload


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({"rollout.sampler": "native"}, True),  # it samples with the trainer's own weights
        ({"rollout.sampler": "vllm", "model.adapter": "lora"}, True),
        ({"rollout.sampler": "vllm", "model.adapter": "lora", "rollout.vllm.share_weights": "off"}, False),
        ({"rollout.sampler": "vllm"}, False),  # all weights are trained, and move under the engine
    ],
    ids=["native", "vllm and lora", "two copies", "vllm, all weights"],
)
def test_who_shares_weights(changes: dict[str, Any], shares: bool, make_config: MakeConfig) -> None:
    resolved = resolve(make_config(changes), device=CPU)
    assert resolved.shares_weights is shares
    assert resolved.has_engine == (changes["rollout.sampler"] == "vllm")


def test_a_gap_of_null_is_no_limit(make_config: MakeConfig) -> None:
    assert resolve_training(make_config({"rollout.max_logp_gap": None}), device=CPU).max_logp_gap == float("inf")
    assert resolve_training(make_config(), device=CPU).max_logp_gap == 1.0e-3


def test_the_adapter_is_drawn_from_the_seed_of_the_run(make_config: MakeConfig) -> None:
    assert resolve(make_config(), device=CPU).lora is None
    changes = {"model.adapter": "lora", "model.lora.rank": 8, "model.lora.alpha": 4, "compute.seed": 7}
    lora = resolve(make_config(changes), device=CPU).lora
    assert lora is not None and (lora.rank, lora.alpha, lora.seed) == (8, 4, 7)


@pytest.mark.parametrize(("dtype", "has_bfloat16", "is_told"), [
    ("bfloat16", False, True), ("bfloat16", True, False), ("float32", False, False), ("auto", False, False),
])  # fmt: skip
def test_bfloat16_that_is_imitated_is_told(
    dtype: str,
    has_bfloat16: bool,
    is_told: bool,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("rlvr.stages.resolve.HAS_BFLOAT16", has_bfloat16)
    resolve(make_config({"compute.dtype": dtype, "model.adapter": "lora"}), device=CPU)
    assert ("imitated on this processor" in capsys.readouterr().out) == is_told
