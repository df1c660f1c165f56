"""The optimizer against AdamW written out, and the warm-up, clipping and state around it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlvr.training.optim import Optimizer
from rlvr.types import UserError
from support.precision import assert_same_bits

SETTINGS: dict[str, Any] = {
    "learning_rate": 0.1,
    "warmup_steps": 4,
    "betas": (0.9, 0.98),
    "weight_decay": 0.01,
    "schedule": "constant",
    "total_steps": 8,
    "kind": "adamw",
    "on_host": False,
    "scales_loss": False,
}
SHAPES = {"a": (3, 2), "b": (5,)}


def make(**settings: Any) -> tuple[dict[str, nn.Parameter], Optimizer]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    return weights, Optimizer(weights, **(SETTINGS | settings))


def gradient(step: int, name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + 2 * step + (name == "b"))
    return torch.randn(SHAPES[name], generator=generator, dtype=torch.float64)


def take_step(weights: dict[str, nn.Parameter], optimizer: Optimizer, step: int, *, max_norm: float = 1.0) -> float:
    for name, weight in weights.items():
        weight.grad = gradient(step, name)
    norm = optimizer.step_clipped(max_norm)
    assert norm is not None
    return norm


def test_steps_are_adamw_with_warm_up_and_clipping() -> None:
    weights, optimizer = make()
    w = {name: weight.detach().numpy().copy() for name, weight in weights.items()}
    m, v = ({name: np.zeros_like(x) for name, x in w.items()} for _ in range(2))
    beta1, beta2 = SETTINGS["betas"]
    for step in range(7):
        g = {name: gradient(step, name).numpy() for name in SHAPES}
        norm = math.sqrt(sum((x**2).sum() for x in g.values()))
        assert norm > 1.5
        rate = 0.1 * min(1.0, (step + 1) / 4)
        assert optimizer.rate() == pytest.approx(rate)
        assert take_step(weights, optimizer, step, max_norm=1.5) == pytest.approx(norm, rel=1e-12)
        for name, weight in weights.items():
            clipped = g[name] * 1.5 / (norm + 1e-6)
            m[name] = beta1 * m[name] + (1 - beta1) * clipped
            v[name] = beta2 * v[name] + (1 - beta2) * clipped**2
            mean, square = m[name] / (1 - beta1 ** (step + 1)), v[name] / (1 - beta2 ** (step + 1))
            w[name] = w[name] * (1 - rate * 0.01) - rate * mean / (np.sqrt(square) + 1e-8)
            np.testing.assert_allclose(weight.detach().numpy(), w[name], rtol=0, atol=1e-12)


def test_gradients_below_the_limit_are_not_scaled_up() -> None:
    (weights, optimizer), (others, plain) = make(), make()
    take_step(weights, optimizer, 0, max_norm=1e9)
    for name, weight in others.items():
        weight.grad = gradient(0, name)
    plain.adamw.param_groups[0]["lr"] = plain.rate()
    plain.adamw.step()
    assert_same_bits(weights, others)


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_without_warm_up_the_first_step_has_the_full_rate(warmup_steps: int) -> None:
    assert make(warmup_steps=warmup_steps)[1].rate() == 0.1


def rates(count: int, **settings: Any) -> list[float]:
    weights, optimizer = make(**settings)
    found = []
    for step in range(count):
        found.append(optimizer.rate())
        take_step(weights, optimizer, step)
    return found


def test_the_rate_falls_to_zero_after_the_last_step() -> None:
    """Up in 4 steps, then 10 steps of which each takes a tenth; what comes later has none left."""
    expected = [0.025, 0.05, 0.075, 0.1, *(0.1 - 0.01 * i for i in range(10)), 0.0, 0.0]
    assert rates(16, schedule="linear", total_steps=14) == pytest.approx(expected)


def test_the_rate_falls_by_half_a_cosine() -> None:
    """Halfway between the warm-up and the end it is half; the last of 10 steps has what is left of the last tenth."""
    found = rates(16, schedule="cosine", total_steps=14)
    assert found[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert found[9] == pytest.approx(0.05)
    falling = [0.1, 0.0975528, 0.0904508, 0.0793893, 0.0654508, 0.05, 0.0345492, 0.0206107, 0.0095492, 0.0024472]
    assert found[4:14] == pytest.approx(falling, abs=1e-7)
    assert found[14:] == [0.0, 0.0]


def test_without_decay_the_rate_stays() -> None:
    assert rates(8) == pytest.approx([0.025, 0.05, 0.075] + 5 * [0.1])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("total_steps", [0, 2, 4])
def test_a_run_shorter_than_its_warm_up_only_warms_up(total_steps: int, schedule: str) -> None:
    found = rates(5, schedule=schedule, total_steps=total_steps)
    assert found == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.0])


def test_gradients_are_cleared() -> None:
    weights, optimizer = make()
    take_step(weights, optimizer, 0)
    assert all(weight.grad is None for weight in weights.values())


@pytest.mark.parametrize("missing", [["a"], ["a", "b"]])
def test_a_missing_gradient_is_a_gradient_of_zero(missing: list[str]) -> None:
    """Momentum moves the weights on, as if what was skipped had been computed."""
    (weights, optimizer), (others, reference) = make(), make()
    for both in ((weights, optimizer), (others, reference)):
        take_step(*both, 0)
    before = weights["a"].detach().clone()
    for name, shape in SHAPES.items():
        weights[name].grad = None if name in missing else gradient(1, name)
        others[name].grad = torch.zeros(shape, dtype=torch.float64) if name in missing else gradient(1, name)
    assert optimizer.step_clipped(1.0) == reference.step_clipped(1.0)
    assert_same_bits(weights, others)
    assert not torch.equal(weights["a"], before)


def test_a_restored_state_goes_on_with_the_same_bits(tmp_path: Any) -> None:
    weights, optimizer = make()
    for step in range(3):  # in the middle of the warm-up
        take_step(weights, optimizer, step)
    torch.save(optimizer.state(), tmp_path / "optimizer.pt")
    others, restored = make()
    for name, weight in others.items():
        weight.data.copy_(weights[name].data)
    restored.load_state(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for step in range(3, 7):
        assert restored.rate() == optimizer.rate()
        assert take_step(weights, optimizer, step) == take_step(others, restored, step)
    assert_same_bits(weights, others)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run_and_leaves_the_weights(bad: float) -> None:
    weights, optimizer = make()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    weights["a"].grad = gradient(0, "a")
    weights["b"].grad = torch.full(SHAPES["b"], bad, dtype=torch.float64)
    with pytest.raises(UserError, match=r"gradient norm is (nan|inf) at optimizer step 0: lower the learning rate"):
        optimizer.step_clipped(1.0)
    assert_same_bits(weights, before)
