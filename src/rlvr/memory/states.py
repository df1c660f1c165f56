"""Optimizer states that wait in the host's memory: the card holds them during the optimizer's step only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlvr.memory.offload import host_memory

SHARED = ("step", "qmap1", "qmap2")  # a few bytes: counters, and the tables of values that all 8-bit states share


class HostStates:
    """Moves the states of a torch optimizer to the host and back, bit for bit.

    They lie in one piece of host memory, page-locked on a GPU, which is kept from step to step. On a CPU it is a copy
    in the same memory, and saves nothing.
    """

    def __init__(self) -> None:
        self.slab: Tensor | None = None

    def park(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy every state to the host and let go of the one on the device. Raises UserError without the memory."""
        start = 0
        for holder, name, state in _states(optimizer):
            if self.slab is None:
                size_bytes = sum(_padded_bytes(state) for _, _, state in _states(optimizer))
                self.slab = host_memory(size_bytes, page_locked=state.is_cuda, key="memory.optimizer_on_host")
            place = self.slab[start : start + state.nbytes].view(state.dtype).view(state.shape)
            if place.data_ptr() != state.data_ptr():
                holder[name] = place.copy_(state)
            start += _padded_bytes(state)

    def fetch(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy every state to the device of its parameter."""
        for group in optimizer.param_groups:
            for weight in group["params"]:
                for holder, name, state in _of(optimizer.state.get(weight, {})):
                    holder[name] = state.to(weight.device, non_blocking=True, copy=True)


def _states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            yield from _of(optimizer.state.get(weight, {}))


def _of(holder: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """The states of one parameter: where they stand, their names and themselves."""
    for name, state in list(holder.items()):
        if isinstance(state, Tensor) and name not in SHARED:
            yield holder, name, state


def _padded_bytes(state: Tensor) -> int:
    return -(-state.nbytes // 16) * 16  # every state begins where any type may begin
