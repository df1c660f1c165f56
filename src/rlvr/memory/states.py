"""Optimizer states that wait in the host's memory: the card holds them during the optimizer's step only."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from rlvr.memory.offload import host_memory

SHARED = ("step", "qmap1", "qmap2")  # a few bytes: counters, and the tables of values that all 8-bit states share


class HostStates:
    """Moves the states of a torch optimizer to the host and back, bit for bit.

    Those of a type lie in one piece of host memory, page-locked on a GPU, which is kept from step to step. On a CPU it
    is a copy in the same memory, and saves nothing.
    """

    def __init__(self) -> None:
        self.slabs: dict[torch.dtype, Tensor] = {}

    def park(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy every state to the host and let go of the one on the device.

        Raises UserError when the host cannot page-lock as much.
        """
        used: dict[torch.dtype, int] = defaultdict(int)
        for weight in _weights(optimizer):
            states = optimizer.state.get(weight, {})
            for name in _names(states):
                state = states[name]
                start, used[state.dtype] = used[state.dtype], used[state.dtype] + state.numel()
                states[name] = self._slab(optimizer, state)[start : used[state.dtype]].view(state.shape).copy_(state)

    def fetch(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy every state to the device of its parameter."""
        for weight in _weights(optimizer):
            states = optimizer.state.get(weight, {})
            for name in _names(states):
                states[name] = states[name].to(weight.device, non_blocking=True, copy=True)

    def _slab(self, optimizer: torch.optim.Optimizer, like: Tensor) -> Tensor:
        """Host memory for all states of the type of `like`."""
        if like.dtype not in self.slabs:
            states = [optimizer.state.get(weight, {}) for weight in _weights(optimizer)]
            states = [of_weight[name] for of_weight in states for name in _names(of_weight)]
            size_bytes = sum(state.nbytes for state in states if state.dtype == like.dtype)
            slab = host_memory(size_bytes, page_locked=like.is_cuda, key="memory.optimizer_on_host")
            self.slabs[like.dtype] = slab.view(like.dtype)
        return self.slabs[like.dtype]


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _names(states: dict[str, Any]) -> list[str]:
    """The states of one parameter that move."""
    return [name for name, value in states.items() if isinstance(value, Tensor) and name not in SHARED]
