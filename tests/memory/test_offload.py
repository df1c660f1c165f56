"""Page-locked host memory, with a record in place of CUDA's runtime."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlvr.memory.offload import Offload, Pass, host_memory
from rlvr.memory.states import HostStates
from rlvr.types import UserError
from support.precision import assert_same_bits

CPU = torch.device("cpu")


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The addresses that are page-locked now."""
    addresses: set[int] = set()

    def lock(address: int, _size_bytes: int, _flags: int) -> int:
        addresses.add(address)
        return 0

    cudart = SimpleNamespace(cudaHostRegister=lock, cudaHostUnregister=addresses.remove)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    return addresses


def test_memory_is_locked_until_its_last_view_is_gone(locked: set[int]) -> None:
    slab = host_memory(4096, page_locked=True, key="memory.offload")
    view, address = slab.view(torch.float32)[5:9], slab.data_ptr()
    del slab
    gc.collect()
    assert locked == {address}
    del view
    gc.collect()
    assert locked == set()


def test_the_states_of_an_optimizer_stay_locked_between_steps(
    locked: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_gpu(size_bytes: int, **how: Any) -> torch.Tensor:
        return host_memory(size_bytes, **how | {"page_locked": True})

    monkeypatch.setattr("rlvr.memory.states.host_memory", on_a_gpu)
    weight = torch.nn.Parameter(torch.zeros(64))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(64)
    optimizer.step()
    states = HostStates()
    states.park(optimizer)
    gc.collect()
    assert locked == {slab.data_ptr() for slab in states.slabs.values()} and locked


def test_memory_that_cannot_be_locked_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=lambda *_: 2))
    with pytest.raises(UserError, match=r"memory\.offload: 0\.00 GiB of host memory cannot be page-locked \(2\)"):
        host_memory(4096, page_locked=True, key="memory.offload")


def test_passes_share_blocks_and_lock_only_what_is_new() -> None:
    home, inputs = Offload(3, CPU), {}
    locked_bytes = []

    def run(tokens: int) -> Pass:
        for layer in range(3):
            inputs[tokens, layer] = torch.randn(1, tokens, 40)
            current = home.store(layer, inputs[tokens, layer])
        return current

    def check(current: Pass, tokens: int) -> None:
        for layer in (2, 1, 0):
            assert_same_bits(current.fetch(layer), inputs[tokens, layer], case=f"layer {layer}")

    for lengths in ((500, 1000), (600, 1000), (1000, 500), (1100, 900)):  # a prompt, and what comes behind it
        prompt, behind = (run(tokens) for tokens in lengths)
        for current, tokens in ((behind, lengths[1]), (prompt, lengths[0])):
            check(current, tokens)
        del current
        held = len(prompt.blocks) + len(behind.blocks) + len(home.free)
        locked_bytes.append(held * home.block_bytes)
        del prompt, behind
        gc.collect()
        needed = 3 * 40 * 4 * max(sum(pair) for pair in ((500, 1000), (600, 1000), (1000, 500), lengths))
        assert needed <= locked_bytes[-1] <= needed + 2 * home.block_bytes
    assert len(home.free) * home.block_bytes == locked_bytes[-1]


def test_inputs_that_are_views_or_end_within_a_block() -> None:
    home = Offload(2, CPU)
    below, above = torch.randn(1, 40, 33).transpose(1, 2)[..., :7], torch.randn(1, 33, 7)
    current = home.store(0, below)
    home.store(1, above)
    assert_same_bits(current.fetch(1), above)
    assert_same_bits(current.fetch(0), below)
