"""Page-locked host memory, with a record in place of CUDA's runtime."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlvr.memory.offload import host_memory
from rlvr.memory.states import HostStates
from rlvr.types import UserError


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
