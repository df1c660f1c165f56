"""Memory-efficient attention: what is handed to torch's kernels, which a CPU does not have.

In their place stand plain products with the same rules: as many key/value heads as query heads, log-sum-exps in whole
multiples of 32, an output whose heads lie together.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.attention import efficient
from support.precision import assert_close_where

SCALE = 0.3


def hidden(queries: int, keys: int, is_causal: bool) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool).triu(1) if is_causal else torch.zeros(1, 1, dtype=torch.bool)


def plain_scores(q: Tensor, k: Tensor, mask: int, scale: float) -> Tensor:
    assert q.dim() == k.dim() == 4 and q.shape[2:] == k.shape[2:], "one sequence, equal heads"
    scores_HLM = torch.einsum("lhe,mhe->hlm", q[0], k[0]) * scale
    return scores_HLM.masked_fill(hidden(q.shape[1], k.shape[1], bool(mask)), -math.inf)


def kernel_forward(q: Tensor, k: Tensor, v: Tensor, *more: Any, scale: float) -> tuple[Tensor, ...]:
    *unused, dropout, mask, wants_lse = more
    assert unused == [None] * 5 and dropout == 0.0 and wants_lse
    scores_HLM = plain_scores(q, k, mask, scale)
    lse_HL = scores_HLM.logsumexp(-1)
    out = torch.einsum("hlm,mhe->lhe", (scores_HLM - lse_HL[..., None]).exp(), v[0])
    rest = -q.shape[1] % 32
    return out[None], torch.nn.functional.pad(lse_HL, (0, rest), value=math.inf)[None], torch.empty(0), torch.empty(0)


def kernel_backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *more: Any, scale: float) -> tuple[Tensor, ...]:
    bias, out, query_bounds, key_bounds, queries, keys, lse_1HP, dropout, _, _, mask, wants_bias = more
    assert (bias, query_bounds, key_bounds, dropout, wants_bias) == (None, None, None, 0.0, False)
    assert (queries, keys) == (q.shape[1], k.shape[1])
    assert out.is_contiguous() and lse_1HP.is_contiguous() and lse_1HP.shape[-1] % 32 == 0
    weights_HLM = (plain_scores(q, k, mask, scale) - lse_1HP[0, :, : q.shape[1], None]).exp()
    dv = torch.einsum("hlm,lhe->mhe", weights_HLM, dout[0])
    delta_HL1 = (dout[0] * out[0]).sum(-1).T[..., None]
    dscores_HLM = weights_HLM * (torch.einsum("lhe,mhe->hlm", dout[0], v[0]) - delta_HL1) * scale
    dq, dk = torch.einsum("hlm,mhe->lhe", dscores_HLM, k[0]), torch.einsum("hlm,lhe->mhe", dscores_HLM, q[0])
    return dq[None], dk[None], dv[None], torch.empty(0)


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = SimpleNamespace(
        _efficient_attention_forward=kernel_forward, _efficient_attention_backward=kernel_backward
    )
    monkeypatch.setattr(efficient, "_aten", kernels)


def heads(tokens: int, count: int, *, seed: int) -> Tensor:
    made = torch.randn(tokens, count, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_()


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize("call_tokens", [8192, 16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("queries", "keys", "is_causal"), [(37, 37, True), (40, 11, False), (1, 1, True), (64, 9, False)]
)
def test_gradients_are_those_of_the_formula(
    queries: int, keys: int, is_causal: bool, kv_heads: int, call_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr.attention.pieces.CALL_TOKENS", call_tokens)
    q, k, v = heads(queries, 4, seed=0), heads(keys, kv_heads, seed=1), heads(keys, kv_heads, seed=2)
    of_each_head = [x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v)]
    scores_HLM = plain_scores(q[None], of_each_head[0][None], is_causal, SCALE)
    expected = torch.einsum("hlm,mhe->lhe", scores_HLM.softmax(-1), of_each_head[1])
    dout = heads(queries, 4, seed=3).detach()
    wanted = torch.autograd.grad(expected, (q, k, v), dout)
    with torch.no_grad():
        out, lse_HL = efficient.forward(q, k, v, is_causal, SCALE)
        sums = torch.ones_like(q), torch.ones_like(k), torch.ones_like(v)
        efficient.backward(dout, q, k, v, out, lse_HL, is_causal, SCALE, sums)
    assert_close_where(out, expected, 1e-12, case="output")
    assert_close_where(lse_HL, scores_HLM.logsumexp(-1), 1e-12, case="log-sum-exp")
    for name, found, gradient in zip("qkv", sums, wanted, strict=True):
        assert_close_where(found - 1.0, gradient, 1e-12, case=f"d{name}")


def test_the_operator_of_torch_takes_what_it_is_handed() -> None:
    """... by its own description of shapes, without values; backward's lacks an argument in torch 2.13."""
    q, k, v = (torch.empty(50, count, 64, dtype=torch.float16, device="meta") for count in (8, 2, 2))
    out, lse_HL = efficient.forward(q, k, v, True, SCALE)
    assert (out.shape, lse_HL.shape) == (q.shape, (8, 50))
