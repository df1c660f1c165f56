"""The linear layer against float64, in every use: with and without gradients, after updates, copied, with a bias."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from rlvr.linear import HAS_AVX512, HAS_BFLOAT16, HAS_ONEDNN, Linear, linear, product, through_onednn
from rlvr.training.optim import Optimizer
from support.precision import assert_close_where, assert_same_bits, error

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this torch or processor has no oneDNN for it")


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def fast(layer: nn.Module) -> Linear:
    """`layer` through oneDNN."""
    layer = through_onednn(layer)
    assert type(layer) is Linear
    return layer


@pytest.mark.parametrize("rows", [(1,), (37,), (1, 5), (2, 3, 4)], ids=str)
@pytest.mark.parametrize(("inner", "outer"), [(64, 48), (33, 7), (5, 130)])
def test_value_and_gradients_are_no_worse_than_torchs(rows: tuple[int, ...], inner: int, outer: int) -> None:
    x, weight, upstream = tensors((*rows, inner), (outer, inner), (*rows, outer))
    results = []
    for way, dtype in ((linear, torch.float32), (F.linear, torch.float32), (F.linear, torch.float64)):
        leaves = [value.to(dtype).requires_grad_() for value in (x, weight)]
        y = way(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, upstream.to(dtype))])
    for found, plain, truth in zip(*results, strict=True):
        assert found.shape == plain.shape and found.dtype == torch.float32
        assert error(found, truth) <= 2 * error(plain, truth) + 1e-6


def test_only_the_gradients_that_are_asked_for() -> None:
    x, weight = tensors((3, 8), (4, 8))
    for needs_x, needs_weight in ((True, False), (False, True)):
        leaves = x.clone().requires_grad_(needs_x), weight.clone().requires_grad_(needs_weight)
        torch.autograd.backward(linear(*leaves).sum())
        assert [leaf.grad is not None for leaf in leaves] == [needs_x, needs_weight]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("has_bfloat16", [HAS_BFLOAT16, False])
def test_a_pass_with_gradients_has_the_bits_of_one_without(
    has_bfloat16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr.linear.HAS_BFLOAT16", has_bfloat16)
    layer, (x,) = fast(nn.Linear(256, 320, dtype=dtype)), tensors((1, 300, 256), dtype=dtype)
    with torch.no_grad():
        expected = layer(x)
    found = layer(x)
    assert found.requires_grad
    assert_same_bits(found, expected)
    assert_same_bits(product(x, layer.weight.detach(), layer.bias.detach()), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_layer_with_and_without_gradients(bias: bool, dtype: torch.dtype) -> None:
    plain = nn.Linear(24, 10, bias=bias, dtype=dtype)
    layer = fast(copy.deepcopy(plain))
    (x,) = tensors((2, 5, 24), dtype=dtype)
    expected = plain(x)
    tolerance = {torch.float64: 0.0, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    assert_close_where(layer(x), expected, tolerance)
    with torch.no_grad():
        assert_close_where(layer(x), expected, tolerance)


@needs_onednn
def test_the_packed_weight_follows_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.linear.PACKED_NUMBERS", 0)
    layer = fast(nn.Linear(16, 8, bias=False))
    (x,) = tensors((3, 16))
    optimizer = Optimizer(
        dict(layer.named_parameters()),
        learning_rate=0.1,
        warmup_steps=0,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        schedule="constant",
        total_steps=1,
        kind="adamw",
        on_host=False,
        scales_loss=False,
    )
    with torch.no_grad():
        layer(x)
        assert layer.packed is not None
        packed = layer.packed[1]
        layer(x)
        assert layer.packed[1] is packed
    layer(x).sum().backward()
    optimizer.step_clipped(1.0)
    with torch.no_grad():
        assert_close_where(layer(x), F.linear(x, layer.weight), 1e-5)
        layer.weight.copy_(torch.zeros(8, 16))
        assert not layer(x).any()


def test_a_layer_that_has_left_the_cpu_is_torchs() -> None:
    layer = fast(nn.Linear(16, 8)).to("meta")
    with torch.no_grad():
        assert layer(torch.empty(3, 16, device="meta")).shape == (3, 8)
    assert layer.packed is None


@needs_onednn
def test_a_copy_has_its_own_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.linear.PACKED_NUMBERS", 0)
    layer = fast(nn.Linear(16, 8, bias=False))
    (x,) = tensors((3, 16))
    with torch.no_grad():
        expected = layer(x)
        other = copy.deepcopy(layer)
        layer.weight.mul_(2.0)
        assert_same_bits(other(x), expected)
        assert_close_where(layer(x), 2 * expected, 1e-5)


def test_only_plain_layers_are_changed_and_their_parameters_stay() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Own(4, 4), nn.LayerNorm(4), nn.Linear(4, 4, device="meta"))
    weights = list(model.parameters())
    assert [type(part) for part in through_onednn(model).children()] == [Linear, Own, nn.LayerNorm, nn.Linear]
    assert all(a is b for a, b in zip(weights, model.parameters(), strict=True))
    assert "packed" not in "".join(model.state_dict())


@needs_onednn
@pytest.mark.parametrize("rows", [(2,), (40,), (3, 7)], ids=str)
@pytest.mark.parametrize("keeps_packed", [True, False])
@pytest.mark.parametrize("is_narrowing", [True, False])
def test_a_processor_without_bfloat16_is_asked_for_none(
    rows: tuple[int, ...], keeps_packed: bool, is_narrowing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AVX2 alone oneDNN refuses bfloat16: value and gradients come from elsewhere, and are no worse."""

    def refuse(*args: object) -> Tensor:
        raise RuntimeError("mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx_ne_convert or avx512bw")

    for operator in ("_reorder_linear_weight", "_linear_pointwise"):
        monkeypatch.setattr(torch.ops.mkldnn, operator, refuse)
    monkeypatch.setattr("rlvr.linear.HAS_BFLOAT16", False)
    monkeypatch.setattr("rlvr.linear.WEIGHTS", 60)
    monkeypatch.setattr("rlvr.linear.ROWS", 16)
    monkeypatch.setattr("rlvr.linear.SUMMANDS", 7)
    monkeypatch.setattr("rlvr.linear.SMALL", 0)
    inner, outer = (24, 10) if is_narrowing else (10, 24)
    plain = nn.Linear(inner, outer, dtype=torch.bfloat16)
    layer = through_onednn(copy.deepcopy(plain), keeps_packed=keeps_packed)
    x, upstream = tensors((*rows, inner), (*rows, outer), dtype=torch.bfloat16)
    exact = nn.functional.linear(x.double(), plain.weight.double(), plain.bias.double())
    with torch.no_grad():
        for found in (layer(x), product(x, plain.weight, plain.bias)):
            assert found.dtype == torch.bfloat16 and found.shape == exact.shape
            assert error(found, exact) <= 2 * error(plain(x), exact) + 1e-6
    weight = next(layer.parameters())
    leaves = [x.requires_grad_(), weight]
    truth = [x.detach().double().requires_grad_(), plain.weight.detach().double().requires_grad_()]
    found_gradients = torch.autograd.grad(layer(x), leaves, upstream)
    expected = torch.autograd.grad(F.linear(*truth), truth, upstream.double())
    for found, gradient in zip(found_gradients, expected, strict=True):
        assert error(found, gradient) <= 2**-8 * gradient.abs().max().item() + 1e-6


@pytest.mark.skipif(HAS_AVX512, reason="there oneDNN rounds a row in several ways")
@pytest.mark.parametrize(("inner", "outer"), [(64, 64), (64, 192), (192, 64), (576, 1536), (64, 65536)])
def test_with_avx2_alone_a_row_is_rounded_as_among_others(inner: int, outer: int) -> None:
    """So that neither tiles nor rows that have ended change the others."""
    x, weight, upstream = tensors((300, inner), (outer, inner), (300, outer))
    leaf = x.clone().requires_grad_()
    y = linear(leaf, weight)
    (gradient,) = torch.autograd.grad(y, leaf, upstream)
    layer = fast(nn.Linear(inner, outer, bias=False))
    with torch.no_grad():
        layer.weight.copy_(weight)
        sampled = layer(x)
    for rows in (1, 2, 3, 4, 7, 22, 64, 299):
        leaf = x[:rows].clone().requires_grad_()
        found = linear(leaf, weight)
        case = f"{rows} rows"
        assert_same_bits(found, y[:rows], case=case)
        assert_same_bits(product(x[:rows], weight, None), y[:rows], case=case)
        with torch.no_grad():
            assert_same_bits(layer(x[:rows]), sampled[:rows], case=case)
        assert_same_bits(torch.autograd.grad(found, leaf, upstream[:rows])[0], gradient[:rows], case=case)


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Whether products inside went through oneDNN, and whether with a packed weight."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linear_pointwise" in str(func):
            self.seen.append("packed" if args[1].is_mkldnn else "plain")
        return func(*args, **(kwargs or {}))


@needs_onednn
@pytest.mark.parametrize(
    ("inner", "outer", "with_avx2_alone"), [(64, 64, []), (576, 1536, []), (64, 65536, ["packed"])]
)
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_float32_takes_onednn_where_it_is_faster(
    rows: int, inner: int, outer: int, with_avx2_alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, (x,) = fast(nn.Linear(inner, outer)), tensors((rows, inner))
    for has_avx512, sampling, training in ((False, with_avx2_alone, []), (True, ["packed"], ["plain"])):
        monkeypatch.setattr("rlvr.linear.HAS_AVX512", has_avx512)
        with Operators() as operators, torch.no_grad():
            sampled = layer(x)
        assert operators.seen == sampling, has_avx512
        with Operators() as operators:
            trained = layer(x)
        assert operators.seen == training, has_avx512
        for found in (sampled, trained.detach()):
            assert_close_where(found, F.linear(x, layer.weight, layer.bias).detach(), 1e-5)


@needs_onednn
def test_what_the_processor_can_is_what_torch_says() -> None:
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() == HAS_BFLOAT16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_keeps_no_packed_copy_gives_the_same(dtype: torch.dtype) -> None:
    layer = nn.Linear(24, 10, dtype=dtype)
    (x,) = tensors((5, 24), dtype=dtype)
    packing, plain = through_onednn(copy.deepcopy(layer)), through_onednn(copy.deepcopy(layer), keeps_packed=False)
    with torch.no_grad():
        expected, found = packing(x), plain(x)
        again = product(x, layer.weight, layer.bias)
    assert isinstance(plain, Linear) and plain.packed is None
    assert_same_bits(found, again)
    assert_close_where(found, expected, {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype])
