"""Attention over flat tokens: the prompt of a group is computed once, and every completion attends to it.

A transformers model runs unchanged on one flat row of tokens [1, S]; only its attention function is ours. It
hands queries, keys and values to the layout of the call, which knows what each token may see.
"""
# S tokens of the flat stream · P prefixes · R rows · L padded length · H query heads · N key/value heads · E head size

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rlvr.types import UserError

NAME = "rlvr"


class Layout(Protocol):
    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        ...

    def attend(self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float) -> Tensor:
        """Attention output [S, H, E] of layer number `layer`."""
        ...


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: [1, heads, S, E] in, [1, S, heads, E] out.

    Raises UserError for sequences longer than a layer's sliding window; shorter ones see all of themselves anyway.
    """
    layout: Layout = kwargs["layout"]
    window = kwargs.get("sliding_window")
    if window is not None and layout.longest > window:
        raise UserError(
            f"the model attends to a sliding window of {window} tokens, and a sequence has {layout.longest}: that is "
            "not supported yet; lower prepare.max_prompt_tokens or rollout.max_completion_tokens"
        )
    q_SHE, k_SNE, v_SNE = (x[0].transpose(0, 1) for x in (query, key, value))
    return layout.attend(module.layer_idx, q_SHE, k_SNE, v_SNE, scaling)[None], None


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
        self.mask = self._mask() if self.num_prefix_tokens else None

    @property
    def longest(self) -> int:
        return self.prefixes.longest + self.rows.longest

    def _mask(self) -> Tensor:
        """Which of [prefix, row] a row's token may see: [R or 1, 1, Lr, Lp + Lr] bool."""
        longest, device = self.rows.longest, self.prefix_of_row.device
        causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        if self.prefixes.is_even:
            prefix = torch.ones(1, longest, self.prefixes.longest, dtype=torch.bool, device=device)
        else:
            length_R = self.prefixes.lengths[self.prefix_of_row]
            visible = torch.arange(self.prefixes.longest, device=device) < length_R[:, None]
            prefix = visible[:, None].expand(-1, longest, -1)
        return torch.cat([prefix, causal.expand(prefix.shape[0], -1, -1)], dim=2)[:, None]

    def attend(self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float) -> Tensor:
        cut = self.num_prefix_tokens
        q, k, v = (self.rows.pad(x[cut:]).transpose(1, 2) for x in (q_SHE, k_SNE, v_SNE))
        if cut == 0:
            return self.rows.unpad(_sdpa(q, k, v, scale).transpose(1, 2))
        qp, kp, vp = (self.prefixes.pad(x[:cut]).transpose(1, 2) for x in (q_SHE, k_SNE, v_SNE))
        prefix_out = self.prefixes.unpad(_sdpa(qp, kp, vp, scale).transpose(1, 2))
        k = torch.cat([kp.index_select(0, self.prefix_of_row), k], dim=2)
        v = torch.cat([vp.index_select(0, self.prefix_of_row), v], dim=2)
        row_out = self.rows.unpad(_sdpa(q, k, v, scale, mask=self.mask).transpose(1, 2))
        return torch.cat([prefix_out, row_out])


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, *, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention [R, heads, L, E], causal when there is no mask, grouped queries allowed."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:  # torch's backward is half as fast there as in float32
        return _sdpa(q.float(), k.float(), v.float(), scale, mask=mask).to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
