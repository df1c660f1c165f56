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
from torch.nn import functional as F  # noqa: N812

from rlvr.attention_kernels import has_flash, working_dtype
from rlvr.unpadded import Pieces, behind_pieces, own_pieces, unpadded

NAME = "rlvr"
PADDED_BYTES = 2**24  # what the padded form of attention may make; a larger micro-batch goes sequence by sequence


class Layout(Protocol):
    def attend(
        self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        """Attention output [S, H, E] of layer number `layer`; in a window of w a token sees the last w up to itself."""
        ...


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: [1, heads, S, E] in, [1, S, heads, E] out."""
    layout: Layout = kwargs["layout"]
    q_SHE, k_SNE, v_SNE = (x[0].transpose(0, 1) for x in (query, key, value))
    out_SHE = layout.attend(module.layer_idx, q_SHE, k_SNE, v_SNE, scaling, kwargs.get("sliding_window"))
    return out_SHE[None], None


class _Pad(torch.autograd.Function):
    """Copy flat tokens into their slots of a zeroed padded tensor; backward copies them out again."""

    @staticmethod
    def forward(ctx: Any, x_S: Tensor, slot_S: Tensor, num_slots: int) -> Tensor:
        ctx.save_for_backward(slot_S)
        return x_S.new_zeros(num_slots, *x_S.shape[1:]).index_copy_(0, slot_S, x_S)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slot_S,) = ctx.saved_tensors
        return grad.index_select(0, slot_S), None, None


class _Unpad(torch.autograd.Function):
    """The inverse of _Pad: each slot is read at most once, so backward is a copy and not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_S: Tensor) -> Tensor:
        ctx.save_for_backward(slot_S)
        ctx.num_slots = x.shape[0]
        return x.index_select(0, slot_S)

    @staticmethod
    def backward(ctx: Any, grad_S: Tensor) -> tuple[Tensor, None]:
        (slot_S,) = ctx.saved_tensors
        return grad_S.new_zeros(ctx.num_slots, *grad_S.shape[1:]).index_copy_(0, slot_S, grad_S), None


class Ragged:
    """Sequences of different lengths that lie one after the other, and the way to a padded tensor and back."""

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        self.lengths = torch.tensor(lengths, dtype=torch.int64, device=device)
        self.count, self.longest = len(lengths), max(lengths, default=0)
        self.is_even = self.count * self.longest == sum(lengths)
        start = torch.arange(self.count, device=device) * self.longest
        first = self.lengths.cumsum(0) - self.lengths
        self.slot_S = (start - first).repeat_interleave(self.lengths) + torch.arange(sum(lengths), device=device)

    def pad(self, x_S: Tensor) -> Tensor:
        """[S, ...] to [count, longest, ...], zeros after each end."""
        padded: Tensor = x_S if self.is_even else _Pad.apply(x_S, self.slot_S, self.count * self.longest)  # type: ignore[no-untyped-call]
        return padded.reshape(self.count, self.longest, *x_S.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """[count, longest, ...] to [S, ...]."""
        flat = x.reshape(self.count * self.longest, *x.shape[2:])
        return flat if self.is_even else _Unpad.apply(flat, self.slot_S)  # type: ignore[no-untyped-call]


class PackedLayout:
    """Prefixes first, then rows: a prefix sees itself causally, a row sees its prefix and itself causally.

    `prefix_lengths` [P] and `row_lengths` [R] in the order in which they lie; `prefix_of_row` [R] ascending.
    """

    def __init__(
        self, prefix_lengths: list[int], row_lengths: list[int], prefix_of_row: list[int], device: torch.device
    ) -> None:
        self.num_prefix_tokens = sum(prefix_lengths)
        self.prefixes = Ragged(prefix_lengths, device)
        self.rows = Ragged(row_lengths, device)
        self.prefix_of_row = torch.tensor(prefix_of_row, dtype=torch.int64, device=device)
        self.pieces = cache(partial(_pieces, tuple(prefix_lengths), tuple(row_lengths), tuple(prefix_of_row), device))
        self.masks = cache(partial(_masks, self.prefixes, self.rows.longest, self.prefix_of_row))

    @property
    def longest(self) -> int:
        return self.prefixes.longest + self.rows.longest

    def attend(
        self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        window = None if window is None or window >= self.longest else window
        is_upcast = working_dtype(q_SHE) != q_SHE.dtype  # which autograd would keep
        if has_flash(q_SHE) or is_upcast or self._padded_bytes(q_SHE, k_SNE) > PADDED_BYTES:
            return unpadded(q_SHE, k_SNE, v_SNE, self.pieces(window), scale=scale)
        return self._padded(q_SHE, k_SNE, v_SNE, scale, window)

    def _padded_bytes(self, q_SHE: Tensor, k_SNE: Tensor) -> int:
        """Of scores, and of keys and values where each row has its prefix's, in the padded form."""
        of_key = self.rows.longest * q_SHE.shape[1] + 2 * k_SNE.shape[1] * k_SNE.shape[2]
        return 4 * self.rows.count * self.longest * of_key

    def _padded(self, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float, window: int | None) -> Tensor:
        """All rows at once, and before them all prefixes: for short ones the fastest on a CPU."""
        cut = self.num_prefix_tokens
        prefix_mask, row_mask = self.masks(window)
        q, k, v = (self.rows.pad(x[cut:]).transpose(1, 2) for x in (q_SHE, k_SNE, v_SNE))
        if cut == 0:
            return self.rows.unpad(_sdpa(q, k, v, scale, mask=row_mask).transpose(1, 2))
        qp, kp, vp = (self.prefixes.pad(x[:cut]).transpose(1, 2) for x in (q_SHE, k_SNE, v_SNE))
        prefix_out = self.prefixes.unpad(_sdpa(qp, kp, vp, scale, mask=prefix_mask).transpose(1, 2))
        k = torch.cat([kp.index_select(0, self.prefix_of_row), k], dim=2)
        v = torch.cat([vp.index_select(0, self.prefix_of_row), v], dim=2)
        row_out = self.rows.unpad(_sdpa(q, k, v, scale, mask=row_mask).transpose(1, 2))
        return torch.cat([prefix_out, row_out])


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


def _masks(
    prefixes: Ragged, longest_row: int, prefix_of_row: Tensor, window: int | None
) -> tuple[Tensor | None, Tensor | None]:
    """What a prefix sees [1, 1, Lp, Lp], and a row of [prefix, row] [R or 1, 1, Lr, Lp + Lr]; None: all so far."""
    device = prefix_of_row.device
    own_LL = _causal(longest_row, window, device)
    if not prefixes.longest:
        return None, None if window is None else own_LL[None, None]
    prefix_mask = None if window is None else _causal(prefixes.longest, window, device)[None, None]
    length_R11 = prefixes.lengths[prefix_of_row[:1] if prefixes.is_even else prefix_of_row][:, None, None]
    key_M, query_L1 = torch.arange(prefixes.longest, device=device), torch.arange(longest_row, device=device)[:, None]
    visible_RLM = (key_M < length_R11).expand(-1, longest_row, -1)
    if window is not None:
        visible_RLM = visible_RLM & (length_R11 + query_L1 - key_M < window)
    own_RLL = own_LL.expand(len(length_R11), -1, -1)
    return prefix_mask, torch.cat([visible_RLM, own_RLL], dim=2)[:, None]


def _causal(length: int, window: int | None, device: torch.device) -> Tensor:
    """Which tokens a token of a sequence sees: those up to itself, in a window the last ones. [L, L] bool"""
    visible = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return visible if window is None else visible.triu(1 - window)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, *, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention [R, heads, L, E], causal when there is no mask, grouped queries allowed."""
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
