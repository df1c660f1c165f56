"""Attention over packed tokens in padded batches: for short sequences the fastest form on a CPU.

Neighbouring rows are padded to the longest of them, each behind a copy of its prefix. Backward pads again, so that what
waits for it is as long as the tokens are, as in `unpadded`.
"""
# S tokens of the stream · P prefixes · R rows · L padded length · H query heads · N key/value heads · E head size

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PART_BYTES = 2**20  # of scores, keys and values of rows that are computed together

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
    """Prefixes, which lie first, and rows, `prefix_of_row` [R] ascending: how to lay them out as batches."""

    def __init__(
        self,
        prefix_lengths: Sequence[int],
        row_lengths: Sequence[int],
        prefix_of_row: Sequence[int],
        device: torch.device,
    ) -> None:
        self.prefix_lengths, self.cut, self.device = prefix_lengths, sum(prefix_lengths), device
        self.row_lengths, self.prefix_of_row = row_lengths, prefix_of_row
        self.longest = max(prefix_lengths, default=0), max(row_lengths, default=0)
        self.parts = cache(self._parts)
        self.prefix_mask = cache(self._prefix_mask)

    @cached_property
    def prefixes(self) -> Ragged:
        return Ragged(self.prefix_lengths, self.device)

    def row_bytes(self, heads: int, key_width: int) -> int:
        """Bytes of the scores, keys and values of the longest row behind the longest prefix, in float32."""
        return 4 * sum(self.longest) * (self.longest[1] * heads + 2 * key_width)

    def prefix_batch(self, x_S: Tensor) -> Tensor:
        """The prefixes of x [S, heads, E]: [P, heads, Lp, E]."""
        return self.prefixes.pad_heads(x_S[: self.cut])

    def _parts(self, rows_at_once: int) -> tuple[Part, ...]:
        starts = list(itertools.accumulate(self.row_lengths, initial=self.cut))
        firsts = range(0, len(self.row_lengths), rows_at_once)
        chosen = [slice(first, first + rows_at_once) for first in firsts]
        return tuple(
            Part(starts[rows.start], self.row_lengths[rows], self.prefix_of_row[rows], self.prefixes) for rows in chosen
        )

    def _prefix_mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        if window is None:
            return None
        return _additive(_causal(self.longest[0], window, self.device)[None, None], dtype)


class Part:
    """Neighbouring rows that are computed together; `first` is their first token, `prefix_of_row` whose they are."""

    def __init__(self, first: int, lengths: Sequence[int], prefix_of_row: Sequence[int], prefixes: Ragged) -> None:
        device = prefixes.lengths.device
        self.tokens = slice(first, first + sum(lengths))
        self.rows, self.prefixes = Ragged(lengths, device), prefixes
        self.prefix_of_row = torch.tensor(prefix_of_row, dtype=torch.int64, device=device)
        self.mask = cache(self._mask)

    def batch(self, x_S: Tensor) -> Tensor:
        """The rows of x [S, heads, E]: [R, heads, L, E]."""
        return self.rows.pad_heads(x_S[self.tokens])

    def behind(self, x_S: Tensor, of_prefixes: Tensor) -> Tensor:
        """The same of keys or values, each row behind its prefix [P, heads, Lp, E]: [R, heads, Lp + L, E]."""
        if not self.prefixes.longest:
            return self.batch(x_S)
        return torch.cat([of_prefixes.index_select(0, self.prefix_of_row), self.batch(x_S)], dim=2)

    def add_up(self, gradient: Tensor, of_rows_S: Tensor, of_prefixes: Tensor) -> None:
        """The reverse for a gradient: put what is of rows into its place, and add to the prefixes what is theirs."""
        cut = self.prefixes.longest
        of_rows_S[self.tokens] = self.rows.unpad_heads(gradient[:, :, cut:])
        if cut:
            of_prefixes.index_add_(0, self.prefix_of_row, gradient[:, :, :cut])

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """What a row sees of its prefix and itself [R or 1, 1, L, Lp + L]: 0, or −∞ where nothing; None: all so far."""
        device, length, longest = self.prefix_of_row.device, self.rows.longest, self.prefixes.longest
        own_LL = _causal(length, window, device)
        if not longest:
            return None if window is None else _additive(own_LL[None, None], dtype)
        length_R11 = self.prefixes.lengths[self.prefix_of_row[: 1 if self.prefixes.is_even else None]][:, None, None]
        key_M, query_L1 = torch.arange(longest, device=device), torch.arange(length, device=device)[:, None]
        visible_RLM = (key_M < length_R11).expand(-1, length, -1)
        if window is not None:
            visible_RLM = visible_RLM & (length_R11 + query_L1 - key_M < window)
        own_RLL = own_LL.expand(len(length_R11), -1, -1)
        return _additive(torch.cat([visible_RLM, own_RLL], dim=2)[:, None], dtype)


def padded(
    q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, padding: Padding, *, scale: float, window: int | None
) -> Tensor:
    """softmax(scale · q·kᵀ)·v over prefixes and rows behind them, [S, H, E], on a CPU in float32 or better."""
    rows_at_once = max(1, PART_BYTES // padding.row_bytes(q_SHE.shape[1], k_SNE.shape[1] * k_SNE.shape[2]))
    parts = padding.parts(rows_at_once)
    out_SHE: Tensor = _Padded.apply(q_SHE, k_SNE, v_SNE, padding, parts, scale, window)  # type: ignore[no-untyped-call]
    return out_SHE


class _Padded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, padding: Padding, parts: Sequence[Part], scale: float,
        window: int | None,
    ) -> Tensor:  # fmt: skip
        out = q.new_empty(q.shape)
        prefix_q, prefix_k, prefix_v = (padding.prefix_batch(x) for x in (q, k, v))
        prefix_out, *lses = _attend(prefix_q, prefix_k, prefix_v, padding.prefix_mask(window, q.dtype), scale)
        out[: padding.cut] = padding.prefixes.unpad_heads(prefix_out)
        for part in parts:
            keys, values = part.behind(k, prefix_k), part.behind(v, prefix_v)
            part_out, lse = _attend(part.batch(q), keys, values, part.mask(window, q.dtype), scale)
            out[part.tokens] = part.rows.unpad_heads(part_out)
            lses.append(lse)
        ctx.padding, ctx.parts, ctx.scale, ctx.window = padding, parts, scale, window
        ctx.save_for_backward(q, k, v, out, *lses)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, prefix_lse, *lses = ctx.saved_tensors
        padding: Padding = ctx.padding
        dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
        prefix_dout, prefix_q, prefix_k, prefix_v, prefix_out = (padding.prefix_batch(x) for x in (dout, q, k, v, out))
        sums_k, sums_v = torch.zeros_like(prefix_k), torch.zeros_like(prefix_v)
        for part, lse in zip(ctx.parts, lses, strict=True):
            part_dq, part_dk, part_dv = _gradients(
                part.batch(dout), part.batch(q), part.behind(k, prefix_k), part.behind(v, prefix_v), part.batch(out),
                lse, part.mask(ctx.window, q.dtype), ctx.scale,
            )  # fmt: skip
            dq[part.tokens] = part.rows.unpad_heads(part_dq)
            part.add_up(part_dk, dk, sums_k)
            part.add_up(part_dv, dv, sums_v)
        prefix_dq, prefix_dk, prefix_dv = _gradients(
            prefix_dout, prefix_q, prefix_k, prefix_v, prefix_out, prefix_lse, padding.prefix_mask(ctx.window, q.dtype),
            ctx.scale,
        )  # fmt: skip
        for total, gradient in ((dq, prefix_dq), (dk, sums_k.add_(prefix_dk)), (dv, sums_v.add_(prefix_dv))):
            total[: padding.cut] = padding.prefixes.unpad_heads(gradient)
        return dq, dk, dv, None, None, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Output [n, heads, L, E] and log-sum-exp; causal where there is no mask."""
    if not q.numel():
        return torch.empty_like(q), q.new_empty(q.shape[:3])
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale
    )
    return out, lse


def _gradients(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, scale: float
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
