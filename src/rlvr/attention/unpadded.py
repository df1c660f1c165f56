"""Attention over sequences that lie one after the other: nothing is padded, and no tokens × tokens tensor exists.

What a token sees comes in pieces: its own sequence so far, and for a completion the prompt before it. Each piece goes
through a kernel by itself; outputs of a token are joined by their log-sum-exps, and backward goes through the pieces
with the joined ones (flash attention, Dao 2023, arXiv 2307.08691; over pieces, Liu et al. 2023, arXiv 2310.01889). So
the keys of a prompt are read by all its completions and never copied.
"""
# S tokens of the stream · H query heads · N key/value heads · E head size · L queries of a piece

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlvr.attention import kernels
from rlvr.attention.pieces import Piece, Pieces, working_dtype

JOIN_TOKENS = 1024  # joined at a time, in float32


@dataclass(eq=False)
class PromptKeys:
    """Keys and values of prompts in one layer, [S, N, E], and the sums of what completions send back to them."""

    k_SNE: Tensor
    v_SNE: Tensor
    gradients: tuple[Tensor, Tensor] | None = None

    def sums(self) -> tuple[Tensor, Tensor]:
        """Where to add gradients of keys and values: zeros at first."""
        if self.gradients is None:
            self.gradients = torch.zeros_like(self.k_SNE), torch.zeros_like(self.v_SNE)
        return self.gradients


@dataclass(eq=False)
class Kept:
    """Output [S, H, E] and log-sum-exp [H, S] of a layer's attention: empty until the pass that computes them.

    A later pass over the same queries, keys and values takes them from here.
    """

    found: tuple[Tensor, ...] = ()


def unpadded(
    q_SHE: Tensor,
    k_SNE: Tensor,
    v_SNE: Tensor,
    pieces: Pieces,
    *,
    scale: float,
    sink_H: Tensor | None = None,
    prompts: PromptKeys | None = None,
    kept: Kept | None = None,
) -> Tensor:
    """softmax(scale · q·kᵀ)·v over what `pieces` let each token see, [S, H, E].

    A sink is one more score for each head, of a key without a value (Xiao et al. 2023, arXiv 2309.17453). The keys of
    pieces behind are those of `prompts`, and without any those of the stream itself. Backward adds to the sums of
    `prompts`. With `kept` output and log-sum-exp are put there, or taken from there: then no kernel runs.
    """
    q_SHE = q_SHE.contiguous()  # flash attention lays out its output alike, which the next projection wants whole
    out_SHE: Tensor = _Unpadded.apply(q_SHE, k_SNE, v_SNE, sink_H, pieces, scale, prompts, kept)  # type: ignore[no-untyped-call]
    return out_SHE


class _Unpadded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sink_H: Tensor | None, pieces: Pieces, scale: float,
        prompts: PromptKeys | None, kept: Kept | None,
    ) -> Tensor:  # fmt: skip
        if kept is not None and kept.found:
            out, lse_HS = (x.detach() for x in kept.found)
        else:
            out, lse_HS = _attend(q, k, v, sink_H, pieces, scale, prompts)
            if kept is not None:
                kept.found = out.detach(), lse_HS
        ctx.pieces, ctx.scale, ctx.prompts = pieces, scale, prompts
        ctx.save_for_backward(q, k, v, sink_H, out, lse_HS)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sink_H, out, lse_HS = ctx.saved_tensors
        dq, dk, dv = (torch.zeros(x.shape, dtype=working_dtype(x), device=x.device) for x in (q, k, v))

        def add(piece: Piece, keys: Tensor, values: Tensor, dkeys: Tensor, dvalues: Tensor) -> None:
            query_rows, key_rows = piece.queries, piece.keys
            kernels.backward(
                dout[query_rows], q[query_rows], keys[key_rows], values[key_rows], out[query_rows],
                lse_HS[:, query_rows], piece, ctx.scale,
                (dq[query_rows], dkeys[key_rows], dvalues[key_rows]),
            )  # fmt: skip

        for piece in ctx.pieces.own:
            add(piece, k, v, dk, dv)
        for piece in ctx.pieces.behind:
            if ctx.prompts is None:
                add(piece, k, v, dk, dv)
            else:
                add(piece, ctx.prompts.k_SNE, ctx.prompts.v_SNE, *ctx.prompts.sums())
        dsink_H = _sink_gradient(dout, out, sink_H, lse_HS) if ctx.needs_input_grad[3] else None
        return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype), dsink_H, *[None] * 4


def _attend(
    q: Tensor, k: Tensor, v: Tensor, sink_H: Tensor | None, pieces: Pieces, scale: float, prompts: PromptKeys | None
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of every token with all that it sees."""
    out, lse_HS = _own(q, k, v, pieces.own, scale)
    keys, values = (k, v) if prompts is None else (prompts.k_SNE, prompts.v_SNE)
    for piece in pieces.behind:
        more = kernels.forward(q[piece.queries], keys[piece.keys], values[piece.keys], piece, scale)
        _join(out[piece.queries], lse_HS[:, piece.queries], *more)
    if sink_H is not None:
        _join_sink(out, lse_HS, sink_H)
    return out.to(q.dtype), lse_HS


def _own(q: Tensor, k: Tensor, v: Tensor, own: Sequence[Piece], scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of every token with its own sequence."""
    parts = (kernels.forward(q[p.queries], k[p.queries], v[p.queries], p, scale) for p in own)
    if len(own) == 1:
        return next(parts)
    dtype = working_dtype(q)
    out = torch.empty(q.shape, dtype=dtype, device=q.device)
    lse_HS = torch.empty(q.shape[1], len(q), dtype=torch.promote_types(dtype, torch.float32), device=q.device)
    for piece, (its_out, its_lse) in zip(own, parts, strict=True):
        out[piece.queries], lse_HS[:, piece.queries] = its_out, its_lse
    return out, lse_HS


def _join(out: Tensor, lse_HL: Tensor, more: Tensor, more_lse_HL: Tensor) -> None:
    """Make of attention over some keys, in place, that over others too: a mean weighted by exp(log-sum-exp)."""
    share_LH1 = (more_lse_HL - lse_HL).sigmoid().T[..., None]
    for a, b, share in zip(*(torch.split(x, JOIN_TOKENS) for x in (out, more, share_LH1)), strict=True):
        a.copy_(torch.lerp(a.to(share.dtype), b.to(share.dtype), share))
    lse_HL.copy_(torch.logaddexp(lse_HL, more_lse_HL))


def _join_sink(out: Tensor, lse_HS: Tensor, sink_H: Tensor) -> None:
    """The same for a sink, whose value is 0."""
    sink_H1 = sink_H[:, None].to(lse_HS.dtype)
    out.mul_((lse_HS - sink_H1).sigmoid_().T[..., None])
    lse_HS.copy_(torch.logaddexp(lse_HS, sink_H1))


def _sink_gradient(dout: Tensor, out: Tensor, sink_H: Tensor, lse_HS: Tensor) -> Tensor:
    """−Σ weight · (dout · out) over tokens, the gradient of a score whose value is 0. [H]"""
    weight_SH = (sink_H[:, None].to(lse_HS.dtype) - lse_HS).exp_().T
    parts = zip(*(torch.split(x, JOIN_TOKENS) for x in (weight_SH, dout, out)), strict=True)
    sums = [(w * (a.to(w.dtype) * b).sum(-1)).sum(0) for w, a, b in parts]
    return -torch.stack(sums).sum(0).to(sink_H.dtype)
