"""Layers that carry a state from token to token, gated delta nets, over flat tokens: no state crosses into another row.

Such a layer (Yang et al. 2024, arXiv 2412.06464) runs as transformers has it, once for each prefix and once for the
rows behind it. Between the two its state goes through what it takes for a cache.
"""
# S tokens of the flat stream · B rows of a batch · L padded length · D hidden · C channels · K taps of the convolution

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType
from typing import Any, Self

import torch
from torch import Tensor

from rlvr.attention.padded import Ragged

NET = "GatedDeltaNet"  # how transformers' classes of such layers end

Run = Callable[[Tensor, "Carried"], Tensor]  # the layer on [B, L, D] behind what is carried, which it replaces


class Carried:
    """What one layer knows of the tokens so far: the last inputs of its convolution [B, C, K], and its state [B, ...].

    It answers as the cache that the layer expects, for whichever layer. Nothing is written in place, so that gradients
    go through it.
    """

    record_past = True  # a single token, too, goes the way that has a gradient

    def __init__(self, inputs: Tensor | None = None, state: Tensor | None = None) -> None:
        self.inputs, self.state = inputs, state

    @property
    def layers(self) -> Self:
        return self

    def __getitem__(self, layer: int) -> Self:
        return self

    @property
    def recurrent_states(self) -> list[Tensor | None]:
        return [self.state]

    @property
    def conv_states(self) -> list[Tensor | None]:
        return [self.inputs]

    def has_previous_state(self, layer: int = 0, state_idx: int = 0) -> bool:
        return self.state is not None

    def update_conv_state(self, x_BCL: Tensor, layer: int, *, conv_kernel_size: int) -> Tensor:
        before = x_BCL.new_zeros(*x_BCL.shape[:2], conv_kernel_size) if self.inputs is None else self.inputs
        both = torch.cat([before, x_BCL], dim=-1)
        self.inputs = both[..., -conv_kernel_size:]
        return both

    def update_recurrent_state(self, state: Tensor, layer: int) -> None:
        self.state = state

    @classmethod
    def joined(cls, several: Sequence[Carried]) -> Carried:
        """Rows of several, in their order."""
        inputs, states = (
            [x for x in xs if x is not None] for xs in zip(*((c.inputs, c.state) for c in several), strict=True)
        )
        return cls(torch.cat(inputs), torch.cat(states))

    def select(self, rows: Tensor) -> Carried:
        """That of `rows`, which may repeat."""
        if self.inputs is None or self.state is None:
            return Carried()
        return Carried(self.inputs.index_select(0, rows), self.state.index_select(0, rows))


def carry(model: torch.nn.Module) -> bool:
    """Let the gated delta nets of `model` ask the layout of a call where rows begin; whether it has any.

    Modules, names and parameters stay as they are; without a layout each runs as before.
    """
    nets = [module for module in model.modules() if type(module).__name__.endswith(NET)]
    for net in nets:
        net.forward = MethodType(_forward, net)  # bound: a deep copy of the module gets its own
    return bool(nets)


def _forward(self: Any, hidden_states: Tensor, **options: Any) -> Tensor:
    plain = partial(type(self).forward, self)
    if "layout" not in options:
        out: Tensor = plain(hidden_states, **options)
        return out
    out_SD: Tensor = options["layout"].recur(
        self.layer_idx, hidden_states[0], lambda x, carried: plain(x, cache_params=carried)
    )
    return out_SD[None]


def recur_packed(
    x_SD: Tensor, run: Run, prefix_lengths: Sequence[int], row_lengths: Sequence[int], prefix_of_row: Sequence[int]
) -> Tensor:
    """`run` over prefixes, which lie first, each from nothing, and over rows, each behind its prefix. [S, D]

    The rows of a prefix go together, padded behind their ends, where nothing looks back from.
    """
    cut = sum(prefix_lengths)
    outputs, carried = [], []
    for x in torch.split(x_SD[:cut], list(prefix_lengths)):
        carried.append(Carried())
        outputs.append(run(x[None], carried[-1])[0] if len(x) else x)
    first = cut
    owners = prefix_of_row if carried else [0] * len(row_lengths)
    for prefix, numbers in itertools.groupby(range(len(row_lengths)), key=lambda row: owners[row]):
        rows = Ragged([row_lengths[row] for row in numbers], x_SD.device)
        size = len(rows.slot_S)
        before = carried[prefix] if carried else Carried()
        everyone = torch.zeros(rows.count, dtype=torch.int64, device=x_SD.device)
        out = run(rows.pad(x_SD[first : first + size]), before.select(everyone))
        outputs.append(rows.unpad(out))
        first += size
    return torch.cat(outputs)
