"""Attention over flat tokens: the prompt of a group is computed once, and every completion attends to it.

A transformers model runs unchanged on one flat row of tokens [1, S]; only its attention function is ours. It
hands queries, keys and values to the layout of the call, which knows what each token may see.
"""
# S tokens of the flat stream · P prefixes · R rows · L padded length · H query heads · N key/value heads · E head size

from __future__ import annotations

from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvr.attention.padded import Padding, padded
from rlvr.attention.pieces import Pieces, behind_pieces, own_pieces, working_dtype
from rlvr.attention.recurrent import Run, recur_packed
from rlvr.attention.unpadded import Kept, unpadded

NAME = "rlvr"
SHORT_ROW_BYTES = 2**17  # of scores, keys and values of a row; longer ones go one by one


class Layout(Protocol):
    def attend(
        self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float, window: int | None = None,
        sink_H: Tensor | None = None, kept: Kept | None = None,
    ) -> Tensor:  # fmt: skip
        """Attention output [S, H, E] of layer number `layer`; in a window of w a token sees the last w up to itself.

        A sink is one more score for each head, whose value is 0. `kept` is for what a later pass takes from this one;
        a layout may leave it empty.
        """
        ...


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: [1, heads, S, E] in, [1, S, heads, E] out.

    Raises TypeError for a model that keeps the layout of a call from its attention.
    """
    if "layout" not in kwargs:
        raise TypeError(f"{type(module).__name__} does not hand on what its model was called with")
    layout: Layout = kwargs["layout"]
    q_SHE, k_SNE, v_SNE = (x[0].transpose(0, 1) for x in (query, key, value))
    more = {"kept": kwargs["kept"]} if "kept" in kwargs else {}
    out_SHE = layout.attend(
        module.layer_idx, q_SHE, k_SNE, v_SNE, scaling, kwargs.get("sliding_window"), kwargs.get("s_aux"), **more
    )
    return out_SHE[None], None


class PackedLayout:
    """Prefixes first, then rows: a prefix sees itself causally, a row sees its prefix and itself causally.

    `prefix_lengths` [P] and `row_lengths` [R] in the order in which they lie; `prefix_of_row` [R] ascending.
    """

    def __init__(
        self, prefix_lengths: list[int], row_lengths: list[int], prefix_of_row: list[int], device: torch.device
    ) -> None:
        self.num_prefix_tokens = sum(prefix_lengths)
        lengths = tuple(prefix_lengths), tuple(row_lengths), tuple(prefix_of_row), device
        self.padding, self.pieces = Padding(*lengths), cache(partial(_pieces, *lengths))
        self.lengths = lengths[:3]

    def attend(
        self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float, window: int | None = None,
        sink_H: Tensor | None = None, kept: Kept | None = None,
    ) -> Tensor:  # fmt: skip
        window = None if window is None or window >= sum(self.padding.longest) else window
        is_exact = q_SHE.device.type == "cpu" and working_dtype(q_SHE) == q_SHE.dtype and sink_H is None
        if is_exact and self.padding.row_bytes(q_SHE.shape[1], k_SNE.shape[1] * k_SNE.shape[2]) <= SHORT_ROW_BYTES:
            return padded(q_SHE, k_SNE, v_SNE, self.padding, scale=scale, window=window)
        return unpadded(q_SHE, k_SNE, v_SNE, self.pieces(window), scale=scale, sink_H=sink_H, kept=kept)

    def recur(self, layer: int, x_SD: Tensor, run: Run) -> Tensor:
        """Output [S, D] of layer number `layer`, which carries a state: `run` from each row's own start."""
        return recur_packed(x_SD, run, *self.lengths)


def _pieces(
    prefix_lengths: tuple[int, ...],
    row_lengths: tuple[int, ...],
    prefix_of_row: tuple[int, ...],
    device: torch.device,
    window: int | None,
) -> Pieces:
    own = own_pieces([*prefix_lengths, *row_lengths], window, device)
    if not sum(prefix_lengths):
        return Pieces(own, ())
    first_row = sum(prefix_lengths)
    return Pieces(own, behind_pieces(prefix_lengths, row_lengths, prefix_of_row, window, device, first_row=first_row))
