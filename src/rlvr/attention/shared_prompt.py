"""A prompt that is computed once for all completions of its group, however many micro-batches they are in.

Its own pass keeps the keys and values of every layer. The completions attend to them and add what they send back to
sums; after the last one the prompt goes backward, and in each layer its keys and values get those sums: nothing else
comes back to it, since no token of it is predicted. The result is that of computing it with every completion.
"""
# S tokens of the prompt without its last · H query heads · N key/value heads · E head size

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlvr.attention.pieces import Pieces, behind_pieces, own_pieces
from rlvr.attention.unpadded import Kept, PromptKeys, unpadded


class SharedPrompt:
    """The tokens of a prompt and, from its pass until its last completion, their keys by layer; the pass's layout."""

    def __init__(self, token_S: Tensor, position_S: Tensor) -> None:
        self.token_S, self.position_S = token_S, position_S
        self.keys: dict[int, PromptKeys] = {}
        self.pieces = cache(partial(_own, len(token_S), token_S.device))

    def attend(
        self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float, window: int | None = None,
        sink_H: Tensor | None = None, kept: Kept | None = None,
    ) -> Tensor:  # fmt: skip
        if layer not in self.keys:  # a layer that is recomputed comes again, with the same
            k, v = (x.detach().clone(memory_format=torch.contiguous_format) for x in (k_SNE, v_SNE))
            self.keys[layer] = PromptKeys(k, v)
        if torch.is_grad_enabled():
            k_SNE, v_SNE = _SentBack.apply(k_SNE, v_SNE, self.keys[layer])  # type: ignore[no-untyped-call]
        return unpadded(q_SHE, k_SNE, v_SNE, self.pieces(window), scale=scale, sink_H=sink_H, kept=kept)


class BehindPrompt:
    """Layout of completions of `prompt`, one after the other, without the prompt's tokens among them."""

    num_prefix_tokens = 0

    def __init__(self, prompt: SharedPrompt, row_lengths: Sequence[int]) -> None:
        self.prompt = prompt
        self.pieces = cache(partial(_behind, len(prompt.token_S), tuple(row_lengths), prompt.token_S.device))

    def attend(
        self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float, window: int | None = None,
        sink_H: Tensor | None = None, kept: Kept | None = None,
    ) -> Tensor:  # fmt: skip
        assert layer in self.prompt.keys, "in_turn() computes the prompt first"
        prompts = self.prompt.keys[layer]
        return unpadded(
            q_SHE, k_SNE, v_SNE, self.pieces(window), scale=scale, sink_H=sink_H, prompts=prompts, kept=kept
        )


class _SentBack(torch.autograd.Function):
    """Keys and values as they are; backward adds to their gradients what completions have sent back."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, v: Tensor, keys: PromptKeys) -> tuple[Tensor, Tensor]:
        ctx.keys = keys
        return k.view_as(k), v.view_as(v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, None]:
        more_dk, more_dv = ctx.keys.sums()
        return dk + more_dk, dv + more_dv, None


def _own(length: int, device: torch.device, window: int | None) -> Pieces:
    return Pieces(own_pieces([length], window, device), ())


def _behind(prompt_length: int, row_lengths: tuple[int, ...], device: torch.device, window: int | None) -> Pieces:
    rows = [0] * len(row_lengths)
    behind = behind_pieces([prompt_length], row_lengths, rows, window, device, first_row=0)
    return Pieces(own_pieces(row_lengths, window, device), behind)
