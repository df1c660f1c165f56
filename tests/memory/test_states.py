"""States in 8 bits and on the host, and gradients through float16."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rlvr.plan.settings import STATE_BYTES
from rlvr.training.optim import LossScale, Optimizer
from rlvr.types import UserError
from support.precision import assert_same_bits

SHAPES = {"wide": (64, 100), "odd": (4111,), "small": (7,)}  # the last one is too small for 8 bits
KINDS = ["adamw", "adamw_8bit"]


def make(kind: str = "adamw", **settings: Any) -> tuple[dict[str, nn.Parameter], Optimizer]:
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'rlvr[qlora]'")
    generator = torch.Generator().manual_seed(0)
    weights = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    options: dict[str, Any] = {
        "kind": kind,
        "learning_rate": 0.01, "warmup_steps": 2, "betas": (0.9, 0.98), "weight_decay": 0.01, "schedule": "linear",
        "total_steps": 50, "on_host": False, "scales_loss": False,
    }  # fmt: skip
    return weights, Optimizer(weights, **options | settings)


def loss_of(weights: dict[str, nn.Parameter]) -> Tensor:
    """Least where each weight is a wave of its place, steeper for some than for others."""
    total = torch.zeros(())
    for weight in weights.values():
        place = torch.arange(weight.numel(), dtype=torch.float32).reshape(weight.shape)
        total = total + ((1.5 + place.cos()) * (weight - place.sin()) ** 2).sum()
    return total


def train(weights: dict[str, nn.Parameter], optimizer: Optimizer, steps: int) -> float:
    for _ in range(steps):
        optimizer.backward(loss_of(weights))
        optimizer.step_clipped(1.0)
    return loss_of(weights).item()


class TestStatesIn8Bits:
    def test_they_are_of_the_planned_size(self) -> None:
        weights, optimizer = make("adamw_8bit")
        train(weights, optimizer, 1)
        held = optimizer.adamw.state[weights["wide"]]
        kept_bytes = sum(value.nbytes for name, value in held.items() if name.startswith(("state", "absmax")))
        assert kept_bytes == STATE_BYTES["adamw_8bit"] * weights["wide"].numel()
        assert optimizer.adamw.state[weights["small"]]["state1"].dtype == torch.float32

    def test_they_learn_nearly_as_32_bits_do(self) -> None:
        """A hundred steps: both come down to a hundredth, and the weights end near each other."""
        (weights, optimizer), (others, eight) = make(total_steps=100), make("adamw_8bit", total_steps=100)
        before, end, end_8bit = loss_of(weights).item(), train(weights, optimizer, 100), train(others, eight, 100)
        assert end_8bit < 1.05 * end < 0.9 * before
        for name in SHAPES:
            moved = (weights[name] - make()[0][name]).norm()
            assert (others[name] - weights[name]).norm() < 0.05 * moved
        assert not torch.equal(others["wide"], weights["wide"])


class TestStatesOnTheHost:
    @pytest.mark.parametrize("kind", KINDS)
    def test_they_change_no_bit(self, kind: str) -> None:
        (weights, optimizer), (others, hosted) = make(kind), make(kind, on_host=True)
        assert train(weights, optimizer, 5) == train(others, hosted, 5)
        assert_same_bits(weights, others)

    @pytest.mark.parametrize("kind", KINDS)
    def test_between_steps_they_lie_in_the_same_host_memory(self, kind: str) -> None:
        weights, optimizer = make(kind, on_host=True)
        assert optimizer.host is not None
        places = set()
        for _ in range(3):
            train(weights, optimizer, 1)
            places |= {slab.data_ptr() for slab in optimizer.host.slabs.values()}
            for weight in weights.values():
                held = optimizer.adamw.state[weight]
                names = [name for name in held if name.startswith(("exp_avg", "state", "absmax"))]
                assert len(names) >= 2
                assert {held[name].untyped_storage().data_ptr() for name in names} <= places
        assert len(places) == len(optimizer.host.slabs) == (1 if kind == "adamw" else 2)
        optimizer.host.fetch(optimizer.adamw)
        held = optimizer.adamw.state[weights["wide"]]
        assert all(held[name].untyped_storage().data_ptr() not in places for name in names)


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_state_goes_on_with_the_same_bits(kind: str, on_host: bool) -> None:
    weights, optimizer = make(kind, on_host=on_host, scales_loss=True)
    train(weights, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state(), file)
    file.seek(0)
    others, restored = make(kind, on_host=on_host, scales_loss=True)
    for name, weight in others.items():
        weight.data.copy_(weights[name].data)
    restored.load_state(torch.load(file, weights_only=True))
    assert restored.loss_scale == optimizer.loss_scale == LossScale(2.0**16, good_steps=3)
    train(weights, optimizer, 3)
    train(others, restored, 3)
    assert_same_bits(weights, others)


class TestLossScale:
    def test_a_power_of_two_changes_no_bit(self) -> None:
        (weights, optimizer), (others, scaled) = make(), make(scales_loss=True)
        train(weights, optimizer, 3)
        train(others, scaled, 3)
        assert_same_bits(weights, others)

    def test_what_float16_would_lose_arrives(self) -> None:
        weights, optimizer = make(scales_loss=True, warmup_steps=0, weight_decay=0.0)
        count = weights["wide"].numel()
        tiny = 2.0**-30  # the smallest number of float16 is 2^-24
        (lost,) = torch.autograd.grad(weights["wide"].half().float().sum() * tiny, weights["wide"])
        assert not lost.any()
        optimizer.backward(weights["wide"].half().float().sum() * tiny)
        assert optimizer.step_clipped(1.0) == pytest.approx(tiny * count**0.5, rel=1e-6)

    @pytest.mark.parametrize("bad", [float("inf"), float("nan")])
    def test_a_step_that_overflows_is_no_step(self, bad: float) -> None:
        (weights, optimizer), (others, plain) = make(scales_loss=True), make()
        train(weights, optimizer, 1)
        train(others, plain, 1)
        rate = optimizer.rate()
        optimizer.backward(loss_of(weights))
        gradient = weights["odd"].grad
        assert gradient is not None
        gradient[5] = bad
        assert optimizer.step_clipped(1.0) is None
        assert_same_bits(weights, others)
        assert optimizer.rate() == rate and weights["odd"].grad is None
        assert optimizer.record() == {"loss_scale": 2.0**15, "skipped_optimizer_steps": 1}
        train(weights, optimizer, 2)
        train(others, plain, 2)
        assert_same_bits(weights, others)

    def test_a_model_beyond_float16_is_named(self) -> None:
        scale = LossScale()
        for _ in range(16):
            scale.note(is_finite=False)
        assert scale.value == 1.0
        with pytest.raises(UserError, match=r"overflow float16.*compute\.dtype to float32"):
            scale.note(is_finite=False)

    @settings(max_examples=25)
    @given(st.lists(st.booleans(), max_size=12), st.integers(1990, 1999))
    def test_it_is_that_of_grad_scaler(self, steps: list[bool], good_steps: int) -> None:
        """torch's own scale after `good_steps` and the same steps, those that overflow being False."""
        truth = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        truth._init_growth_tracker = good_steps
        weight = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.0)
        scale = LossScale(good_steps=good_steps)
        for is_finite in steps:
            torch.autograd.backward(truth.scale(weight.sum()))
            if not is_finite:
                weight.grad = torch.full((1,), float("inf"))
            truth.step(optimizer)
            truth.update()
            optimizer.zero_grad()
            scale.note(is_finite=is_finite)
        assert scale.value == truth.get_scale()
        assert scale.skipped == steps.count(False)
