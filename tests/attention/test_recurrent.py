"""Layers that carry a state, over packed rows, against each row alone behind its prompt."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from rlvr.attention import PackedLayout
from rlvr.attention.recurrent import carry
from support.precision import assert_close_where, assert_same_bits

CPU = torch.device("cpu")
HIDDEN, TAPS = 16, 4
NET = {"linear_key_head_dim": 8, "linear_value_head_dim": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
       "linear_conv_kernel_dim": TAPS, "hidden_size": HIDDEN, "num_hidden_layers": 4}  # fmt: skip


def make_net() -> Any:
    torch.manual_seed(0)
    net = Qwen3_5GatedDeltaNet(AutoConfig.for_model("qwen3_5_text", **NET), 0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return net


def one_by_one(net: Any, x_SD: Tensor, lengths: tuple[list[int], list[int], list[int]]) -> Tensor:
    """The layer on every prefix, and on every row with its prefix before it."""
    prefixes, *rows = torch.split(x_SD, [sum(lengths[0]), *lengths[1]])
    each = torch.split(prefixes, lengths[0])
    outputs = [net(x[None])[0] for x in each if len(x)]
    for prefix, row in zip(lengths[2], rows, strict=True):
        outputs.append(net(torch.cat([each[prefix], row])[None])[0][len(each[prefix]) :])
    return torch.cat(outputs)


@settings(max_examples=25)
@given(
    prefixes=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    rows=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 2)), min_size=1, max_size=5),
)
def test_no_state_crosses_into_another_row(prefixes: list[int], rows: list[tuple[int, int]]) -> None:
    """Output and gradients, of rows shorter than the convolution and longer than a chunk of the delta rule."""
    lengths = prefixes, [n for n, _ in rows], sorted(min(prefix, len(prefixes) - 1) for _, prefix in rows)
    net = make_net()
    x_SD = torch.randn(sum(prefixes) + sum(lengths[1]), HIDDEN, requires_grad=True)
    expected = one_by_one(net, x_SD, lengths)
    direction = torch.randn_like(expected)
    inputs = [x_SD, *net.parameters()]
    gradients = torch.autograd.grad(expected, inputs, direction)
    assert carry(net)
    found = net(x_SD[None], layout=PackedLayout(*lengths, CPU), attention_mask=None)[0]
    assert_close_where(found, expected, 5e-5)
    for a, b in zip(torch.autograd.grad(found, inputs, direction), gradients, strict=True):
        assert_close_where(a, b, 1e-4 * max(1.0, b.abs().max().item()))


def test_without_a_layout_a_layer_runs_as_before() -> None:
    net, x = make_net(), torch.randn(1, 7, HIDDEN)
    before = net(x)
    carry(net)
    assert_same_bits(net(x), before)
    assert not carry(torch.nn.Linear(2, 2))
