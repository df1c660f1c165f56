"""Attention over packed tokens against a full matrix with an explicit mask."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlvr.attention import PackedLayout, Ragged

CPU = torch.device("cpu")
LAYOUTS = {  # prefix lengths, row lengths, prefix of each row
    "ragged": ([4, 1, 3], [5, 2, 1, 4, 3], [0, 0, 1, 2, 2]),
    "even": ([3, 3], [4, 4, 4, 4], [0, 0, 1, 1]),
    "even prefixes, ragged rows": ([3, 3], [4, 1, 2], [0, 1, 1]),
    "an empty prefix": ([0, 4], [2, 3, 3], [0, 0, 1]),
    "no prefix": ([0, 0], [2, 3, 3], [0, 0, 1]),
    "one of each": ([2], [3], [0]),
}


def visible(prefix_lengths: list[int], row_lengths: list[int], prefix_of_row: list[int]) -> Tensor:
    """Which tokens [S, S] a token sees: its own sequence so far, and a row its whole prefix."""
    owner = [(0, p, i) for p, n in enumerate(prefix_lengths) for i in range(n)]
    owner += [(1, r, i) for r, n in enumerate(row_lengths) for i in range(n)]

    def sees(query: tuple[int, int, int], key: tuple[int, int, int]) -> bool:
        if query[:2] == key[:2]:
            return key[2] <= query[2]
        return query[0] == 1 and key[0] == 0 and prefix_of_row[query[1]] == key[1]

    return torch.tensor([[sees(query, key) for key in owner] for query in owner])


def full_attention(q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, mask_SS: Tensor, scale: float) -> Tensor:
    repeat = q_SHE.shape[1] // k_SNE.shape[1]
    heads = []
    for h in range(q_SHE.shape[1]):
        scores = q_SHE[:, h] @ k_SNE[:, h // repeat].T * scale
        heads.append(scores.masked_fill(~mask_SS, -math.inf).softmax(-1) @ v_SNE[:, h // repeat])
    return torch.stack(heads, dim=1)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_attention_and_its_gradients(layout: str, kv_heads: int) -> None:
    lengths = LAYOUTS[layout]
    num_tokens = sum(lengths[0]) + sum(lengths[1])
    generator = torch.Generator().manual_seed(2)
    q, k, v, upstream = (
        torch.randn(num_tokens, heads, 8, dtype=torch.float64, generator=generator)
        for heads in (4, kv_heads, kv_heads, 4)
    )
    inputs = [x.requires_grad_() for x in (q, k, v)]
    found = PackedLayout(*lengths, CPU).attend(0, *inputs, 0.3)
    expected = full_attention(*inputs, visible(*lengths), 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    for a, b in zip(*(torch.autograd.grad(x, inputs, upstream) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [[3, 1, 2], [2, 2], [0, 3], [4]])
def test_padding_and_back(lengths: list[int]) -> None:
    x = torch.arange(2 * sum(lengths), dtype=torch.float64).reshape(-1, 2).requires_grad_()
    ragged = Ragged(lengths, CPU)
    padded = ragged.pad(x)
    assert padded.shape == (len(lengths), max(lengths), 2)
    for row, part in zip(padded, x.split(lengths), strict=True):
        assert torch.equal(row[: len(part)], part) and not row[len(part) :].any()
    assert torch.equal(ragged.unpad(padded), x)
    assert torch.autograd.gradcheck(lambda y: ragged.unpad(ragged.pad(y).square()), x)


def test_bfloat16_on_a_cpu_is_computed_in_float32() -> None:
    """Each output is the rounded float32 result on the rounded inputs, so the error is that of one rounding."""
    lengths = LAYOUTS["ragged"]
    num_tokens = sum(lengths[0]) + sum(lengths[1])
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(num_tokens, heads, 8, generator=generator).bfloat16() for heads in (4, 2, 2))
    found = PackedLayout(*lengths, CPU).attend(0, q, k, v, 0.3)
    expected = PackedLayout(*lengths, CPU).attend(0, q.float(), k.float(), v.float(), 0.3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0, atol=0)
