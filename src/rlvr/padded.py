"""Attention over packed tokens as one padded batch: for short sequences the fastest form on a CPU.

Rows are padded to the longest, each behind a copy of its prefix. Backward pads anew, so that what waits for it is as
long as the tokens are, as in `unpadded`.
"""
# S tokens of the flat stream · P prefixes · R rows · L padded length · H query heads · N key/value heads · E head size

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten


class Ragged:
    """Sequences of different lengths that lie one after the other, and the way to a padded tensor and back."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = torch.tensor(lengths, dtype=torch.int64, device=device)
        self.count, self.longest = len(lengths), max(lengths, default=0)
        self.is_even = self.count * self.longest == sum(lengths)
        start = torch.arange(self.count, device=device) * self.longest
        first = self.lengths.cumsum(0) - self.lengths
        self.slot_S = (start - first).repeat_interleave(self.lengths) + torch.arange(sum(lengths), device=device)

    def pad(self, x_S: Tensor) -> Tensor:
        """[S, ...] to [count, longest, ...], zeros after each end; a view where there is no padding."""
        shape = x_S.shape[1:]
        if not self.is_even:
            x_S = x_S.new_zeros(self.count * self.longest, *shape).index_copy_(0, self.slot_S, x_S)
        return x_S.reshape(self.count, self.longest, *shape)

    def unpad(self, x: Tensor) -> Tensor:
        """[count, longest, ...] to [S, ...]."""
        flat = x.reshape(self.count * self.longest, *x.shape[2:])
        return flat if self.is_even else flat.index_select(0, self.slot_S)

    def pad_heads(self, x_S: Tensor) -> Tensor:
        """[S, heads, E] to [count, heads, longest, E]."""
        return self.pad(x_S).transpose(1, 2)

    def unpad_heads(self, x: Tensor) -> Tensor:
        """[count, heads, longest, E] to [S, heads, E]."""
        return self.unpad(x.transpose(1, 2))


class Padding:
    """How to lay out prefixes and rows, `prefix_of_row` [R], as two batches, and what a token sees there."""

    def __init__(self, prefixes: Ragged, rows: Ragged, prefix_of_row: Tensor) -> None:
        self.prefixes, self.rows, self.prefix_of_row = prefixes, rows, prefix_of_row
        self.num_prefix_tokens = len(prefixes.slot_S)
        self.masks = cache(self._masks)

    def batches(self, x_S: Tensor) -> tuple[Tensor, Tensor]:
        """Prefixes and rows of x [S, heads, E]: [P, heads, Lp, E], [R, heads, Lr, E]."""
        cut = self.num_prefix_tokens
        return self.prefixes.pad_heads(x_S[:cut]), self.rows.pad_heads(x_S[cut:])

    def key_batches(self, x_S: Tensor) -> tuple[Tensor, Tensor]:
        """The same of keys or values, each row behind its prefix: [P, heads, Lp, E], [R, heads, Lp + Lr, E]."""
        of_prefixes, of_rows = self.batches(x_S)
        if self.num_prefix_tokens:
            of_rows = torch.cat([of_prefixes.index_select(0, self.prefix_of_row), of_rows], dim=2)
        return of_prefixes, of_rows

    def flat(self, of_prefixes: Tensor, of_rows: Tensor) -> Tensor:
        """The reverse of batches."""
        rows = self.rows.unpad_heads(of_rows)
        return torch.cat([self.prefixes.unpad_heads(of_prefixes), rows]) if self.num_prefix_tokens else rows

    def flat_sums(self, of_prefixes: Tensor, of_rows: Tensor) -> Tensor:
        """The reverse of key_batches for gradients: of a prefix, the sum of what all its rows send back."""
        cut = of_prefixes.shape[2]
        sent_back = torch.zeros_like(of_prefixes).index_add_(0, self.prefix_of_row, of_rows[:, :, :cut])
        return self.flat(of_prefixes + sent_back, of_rows[:, :, cut:])

    def _masks(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """What a prefix sees [1, 1, Lp, Lp], and a row of [prefix, row] [R or 1, 1, Lr, Lp + Lr]: 0, or −∞ if hidden.

        None: all so far.
        """
        device, longest = self.prefix_of_row.device, self.prefixes.longest
        own_LL = _causal(self.rows.longest, window, device)
        if not longest:
            return None, None if window is None else _additive(own_LL[None, None], dtype)
        prefix_mask = None if window is None else _additive(_causal(longest, window, device)[None, None], dtype)
        length_R11 = self.prefixes.lengths[self.prefix_of_row[: 1 if self.prefixes.is_even else None]][:, None, None]
        key_M, query_L1 = torch.arange(longest, device=device), torch.arange(self.rows.longest, device=device)[:, None]
        visible_RLM = (key_M < length_R11).expand(-1, self.rows.longest, -1)
        if window is not None:
            visible_RLM = visible_RLM & (length_R11 + query_L1 - key_M < window)
        own_RLL = own_LL.expand(len(length_R11), -1, -1)
        return prefix_mask, _additive(torch.cat([visible_RLM, own_RLL], dim=2)[:, None], dtype)


def padded(
    q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, padding: Padding, *, scale: float, window: int | None
) -> Tensor:
    """softmax(scale · q·kᵀ)·v over what `padding` lets each token see, [S, H, E], on a CPU in float32 or better."""
    out_SHE: Tensor = _Padded.apply(q_SHE, k_SNE, v_SNE, padding, scale, window)  # type: ignore[no-untyped-call]
    return out_SHE


class _Padded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, padding: Padding, scale: float, window: int | None
    ) -> Tensor:
        inputs = zip(padding.batches(q), padding.key_batches(k), padding.key_batches(v), strict=True)
        masks = padding.masks(window, q.dtype)
        outs, lses = zip(*(_attend(*x, mask, scale) for x, mask in zip(inputs, masks, strict=True)), strict=True)
        out = padding.flat(*outs)
        ctx.padding, ctx.scale, ctx.window = padding, scale, window
        ctx.save_for_backward(q, k, v, out, *lses)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, *lses = ctx.saved_tensors
        padding: Padding = ctx.padding
        inputs = zip(
            padding.batches(dout), padding.batches(q), padding.key_batches(k), padding.key_batches(v),
            padding.batches(out), lses, padding.masks(ctx.window, q.dtype), strict=True,
        )  # fmt: skip
        gradients = [list(pair) for pair in zip(*(_gradients(*x, scale=ctx.scale) for x in inputs), strict=True)]
        del inputs  # before anything is made flat, as each pair after it
        dv = padding.flat_sums(*gradients.pop())
        dk = padding.flat_sums(*gradients.pop())
        return padding.flat(*gradients.pop()), dk, dv, None, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Output [n, heads, L, E] and log-sum-exp; causal where there is no mask."""
    if not q.numel():
        return torch.empty_like(q), q.new_empty(q.shape[:3])
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale
    )
    return out, lse


def _gradients(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    if not q.numel():
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    dq, dk, dv = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        dout, q, k, v, out, lse, 0.0, mask is None, attn_mask=mask, scale=scale
    )
    return dq, dk, dv


def _additive(is_visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(is_visible.shape, dtype=dtype, device=is_visible.device).masked_fill_(~is_visible, -torch.inf)


def _causal(length: int, window: int | None, device: torch.device) -> Tensor:
    """Which tokens a token of a sequence sees: those up to itself, in a window the last ones. [L, L] bool"""
    visible = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return visible if window is None else visible.triu(1 - window)
