"""Attention over packed tokens against a full matrix with an explicit mask."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlvr.attention import PackedLayout
from rlvr.attention.padded import Ragged
from rlvr.attention.unpadded import unpadded
from rlvr.runtime.ledger import LiveStorages
from support.precision import assert_close_where, assert_same_bits

CPU = torch.device("cpu")
LAYOUTS = {  # prefix lengths, row lengths, prefix of each row
    "ragged": ([4, 1, 3], [5, 2, 1, 4, 3], [0, 0, 1, 2, 2]),
    "even": ([3, 3], [4, 4, 4, 4], [0, 0, 1, 1]),
    "even prefixes, ragged rows": ([3, 3], [4, 1, 2], [0, 1, 1]),
    "an empty prefix": ([0, 4], [2, 3, 3], [0, 0, 1]),
    "no prefix": ([0, 0], [2, 3, 3], [0, 0, 1]),
    "one of each": ([2], [3], [0]),
}


def visible(
    prefix_lengths: list[int], row_lengths: list[int], prefix_of_row: list[int], window: int | None = None
) -> Tensor:
    """Which tokens [S, S] a token sees: its own sequence so far, and a row its prefix; in a window the last of them."""
    owner = [(0, p, i) for p, n in enumerate(prefix_lengths) for i in range(n)]
    owner += [(1, r, i) for r, n in enumerate(row_lengths) for i in range(n)]

    def sees(query: tuple[int, int, int], key: tuple[int, int, int]) -> bool:
        if query[:2] == key[:2]:
            return 0 <= query[2] - key[2] < (window or math.inf)
        if query[0] == 0 or key[0] == 1 or prefix_of_row[query[1]] != key[1]:
            return False
        return prefix_lengths[key[1]] + query[2] - key[2] < (window or math.inf)

    return torch.tensor([[sees(query, key) for key in owner] for query in owner])


def full_attention(
    q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, mask_SS: Tensor, scale: float, sink_H: Tensor | None = None
) -> Tensor:
    """A sink is one more column of scores, whose weight goes to nothing."""
    repeat = q_SHE.shape[1] // k_SNE.shape[1]
    heads = []
    for h in range(q_SHE.shape[1]):
        scores = (q_SHE[:, h] @ k_SNE[:, h // repeat].T * scale).masked_fill(~mask_SS, -math.inf)
        if sink_H is not None:
            scores = torch.cat([scores, sink_H[h].expand(len(scores), 1)], dim=1)
        heads.append(scores.softmax(-1)[:, : len(mask_SS)] @ v_SNE[:, h // repeat])
    return torch.stack(heads, dim=1)


def random_heads(num_tokens: int, kv_heads: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """q, k, v that want a gradient, and a direction for it."""
    generator = torch.Generator().manual_seed(2)
    inputs = [
        torch.randn(num_tokens, heads, 8, dtype=dtype, generator=generator) for heads in (4, kv_heads, kv_heads, 4)
    ]
    return (*(x.requires_grad_() for x in inputs[:3]), inputs[3])


def compare(lengths: tuple[list[int], list[int], list[int]], *, kv_heads: int, window: int | None) -> None:
    """Both forms of PackedLayout, output and gradients, against the full matrix."""
    q, k, v, upstream = random_heads(sum(lengths[0]) + sum(lengths[1]), kv_heads)
    layout = PackedLayout(*lengths, CPU)
    expected = full_attention(q, k, v, visible(*lengths, window), 0.3)
    gradients = torch.autograd.grad(expected, (q, k, v), upstream)
    for found in (layout.attend(0, q, k, v, 0.3, window), unpadded(q, k, v, layout.pieces(window), scale=0.3)):
        assert_close_where(found, expected, 1e-13, case="output")
        for name, a, b in zip("qkv", torch.autograd.grad(found, (q, k, v), upstream), gradients, strict=True):
            assert_close_where(a, b, 1e-12, case=f"d{name}, prefixes, rows and owners {lengths}")


@pytest.mark.parametrize("window", [None, 1, 2, 4, 6, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_attention_and_its_gradients(layout: str, window: int | None) -> None:
    for kv_heads in (4, 2, 1):
        compare(LAYOUTS[layout], kv_heads=kv_heads, window=window)


@given(
    prefixes=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    rows=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 30),
    sinks=st.lists(st.floats(-30.0, 30.0), min_size=4, max_size=4),
)
def test_sinks_take_weight_and_have_a_gradient(
    prefixes: list[int], rows: list[tuple[int, int]], window: int | None, sinks: list[float]
) -> None:
    lengths = prefixes, [n for n, _ in rows], sorted(min(prefix, len(prefixes) - 1) for _, prefix in rows)
    q, k, v, upstream = random_heads(sum(prefixes) + sum(lengths[1]), 2)
    sink_H = torch.tensor(sinks, dtype=torch.float64, requires_grad=True)
    expected = full_attention(q, k, v, visible(*lengths, window), 0.3, sink_H)
    found = PackedLayout(*lengths, CPU).attend(0, q, k, v, 0.3, window, sink_H)
    assert_close_where(found, expected, 1e-13, case="output")
    gradients = torch.autograd.grad(expected, (q, k, v, sink_H), upstream)
    for name, a, b in zip("qkvs", torch.autograd.grad(found, (q, k, v, sink_H), upstream), gradients, strict=True):
        assert_close_where(a, b, 1e-12 * max(1.0, b.abs().max().item()), case=f"d{name}")


@given(
    prefixes=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    rows=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 30),
)
def test_any_lengths(prefixes: list[int], rows: list[tuple[int, int]], window: int | None) -> None:
    owners = sorted(min(prefix, len(prefixes) - 1) for _, prefix in rows)
    compare((prefixes, [length for length, _ in rows], owners), kv_heads=2, window=window)


@pytest.mark.parametrize("window", [None, 30])
def test_long_sequences_in_several_calls_and_blocks(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.attention.pieces.CALL_TOKENS", 50)
    monkeypatch.setattr("rlvr.attention.blocks.SCORE_BYTES", 2**13)
    compare(([31, 5], [29, 19, 4, 51], [0, 0, 0, 1]), kv_heads=2, window=window)


@pytest.mark.parametrize("window", [None, 512])
def test_no_tensor_of_tokens_by_tokens(window: int | None) -> None:
    """A row of 4,096 tokens behind a prompt: forward and backward hold less than its scores of one head."""
    lengths = ([512], [4096], [0])
    q, k, v, upstream = random_heads(512 + 4096, 2, torch.float32)
    with LiveStorages(CPU, reads=False) as measured:
        torch.autograd.backward(PackedLayout(*lengths, CPU).attend(0, q, k, v, 0.3, window), upstream)
    assert measured.peak_bytes < 4 * 4096 * 4096


@pytest.mark.parametrize("lengths", [[3, 1, 2], [2, 2], [0, 3], [4]])
def test_padding_and_back(lengths: list[int]) -> None:
    x = torch.arange(2 * sum(lengths), dtype=torch.float64).reshape(-1, 2)
    ragged = Ragged(lengths, CPU)
    padded = ragged.pad(x)
    assert padded.shape == (len(lengths), max(lengths), 2)
    for row, part in zip(padded, torch.split(x, lengths), strict=True):
        assert_same_bits(row[: len(part)], part)
        assert not row[len(part) :].any()
    assert_same_bits(ragged.unpad(padded), x)


def test_bfloat16_on_a_cpu_is_computed_in_float32() -> None:
    """Each output is the rounded float32 result on the rounded inputs, so the error is that of one rounding."""
    lengths = LAYOUTS["ragged"]
    q, k, v, _ = (x.detach().bfloat16() for x in random_heads(sum(lengths[0]) + sum(lengths[1]), 2, torch.float32))
    layout = PackedLayout(*lengths, CPU)
    found = layout.attend(0, q, k, v, 0.3)
    expected = unpadded(q.float(), k.float(), v.float(), layout.pieces(None), scale=0.3)
    assert found.dtype == torch.bfloat16
    assert_close_where(found, expected.bfloat16(), 0)
