"""The head's Triton kernels against the formulas in float64. test_kernels.py runs this file in a process of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlvr.logprob import kernel
from rlvr.logprob.rows import LogitMap
from rlvr.types import UserError
from support.head_cases import MAPS, PLAIN, RESULTS, compared, make_inputs, results
from support.precision import assert_agree, assert_close_where, assert_relative, disagreement, relative

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RAGGED, POWER, SMALL = (21, 16, 4099), (16, 32, 256), (3, 8, 33)
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs_on_device(tokens: int, width: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> Inputs:
    hidden, head, target = make_inputs(tokens, width, vocabulary, dtype)
    return hidden.to(DEVICE), head.to(DEVICE), target.to(DEVICE)


def how(**values: Any) -> dict[str, Any]:
    return {"impl": "triton", "chunk_rows": 8, "train_head": True, "entropy_gradient": True} | values


@pytest.mark.parametrize(
    "shape, logit_map, entropy_gradient",
    [(RAGGED, "plain", True), (RAGGED, "plain", False), (POWER, "cap", True), (POWER, "cap", False)]
    + [(SMALL, logit_map, True) for logit_map in MAPS],
)
def test_values_and_every_gradient(shape: tuple[int, int, int], logit_map: str, entropy_gradient: bool) -> None:
    outcome = compared(inputs_on_device(*shape), **how(entropy_gradient=entropy_gradient), **MAPS[logit_map])
    where = f"{shape}, {logit_map}, entropy_gradient={entropy_gradient}"
    assert_agree(*outcome, floor=1e-6, names=RESULTS, case=where)


@pytest.mark.parametrize("block", [16, 1024])
@pytest.mark.parametrize("logit_map", ["plain", "cap"])
def test_a_row_of_several_blocks(block: int, logit_map: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ragged last block, whose lanes past the end must count for nothing."""
    monkeypatch.setattr(kernel, "MAX_BLOCK", block)
    outcome = compared(inputs_on_device(6, 16, 1031 if block > 64 else 201), **how(), **MAPS[logit_map])
    assert_agree(*outcome, floor=1e-6, names=RESULTS, case=f"{logit_map}, blocks of {block}")


def test_a_vocabulary_of_151_936() -> None:
    found, eager, truth = compared(inputs_on_device(3, 16, 151_936), **how(chunk_rows=2), **PLAIN)
    assert_agree(found, eager, truth, floor=1e-6, names=RESULTS)
    assert_close_where(found[0], truth[0], 1e-5, case="logp")
    assert_close_where(found[1], truth[1], 2e-5, case="entropy")
    assert_relative(found[2], truth[2], 5e-6, case="dH")


@pytest.mark.parametrize("largest", [-200.0, 0.0, 3000.0])
def test_rows_far_from_zero(largest: float) -> None:
    """The first block may lie far below the maximum, or all logits below zero."""
    logits = torch.linspace(largest - 300, largest, 900, device=DEVICE)[None].repeat(2, 1)
    truth = logits.double().log_softmax(-1)
    target = torch.tensor([899, 3], device=DEVICE)
    logp, entropy, _ = kernel.statistics(logits, target, LogitMap(1.0, None, 1.0), entropy_gradient=False)
    rounding = 4 * torch.finfo(torch.float32).eps * max(300.0, abs(largest))
    where = f"logits up to {largest}"
    assert_close_where(logp, truth[torch.arange(2), target], rounding, case=f"logp, {where}")
    assert_close_where(entropy, -(truth.exp() * truth).sum(-1), rounding, case=f"entropy, {where}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit(dtype: torch.dtype) -> None:
    """Values are those of float32 logits; a gradient is at most a rounding of its logits' gradient away."""
    inputs = inputs_on_device(12, 16, 500, dtype=dtype)
    found, eager, truth = compared(inputs, **how(), **PLAIN)
    assert_agree(found[:2], eager[:2], truth[:2], floor=1e-6, names=RESULTS, case=str(dtype))
    rounding = torch.finfo(dtype).eps
    for name, f, e, t in zip(RESULTS[2:], found[2:], eager[2:], truth[2:], strict=True):
        assert_relative(f, t, max(2 * relative(e, t), rounding), case=f"{name}, {dtype}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_the_logits_is_that_of_float32_rounded(dtype: torch.dtype) -> None:
    """On a GPU to the nearest; the interpreter cuts off."""
    logits = torch.randn(4, 300, device=DEVICE)
    target, dlogp = torch.arange(4, device=DEVICE), torch.ones(4, device=DEVICE)
    gradients = []
    for out in (torch.float32, dtype):
        _, _, state = kernel.statistics(logits.clone(), target, LogitMap(0.9, None, 1.0), entropy_gradient=True)
        gradients.append(kernel.gradient(state, target, dlogp, dlogp, LogitMap(0.9, None, 1.0), out).double())
    ulp = torch.finfo(dtype).eps * gradients[0].abs() + torch.finfo(dtype).smallest_normal
    assert_close_where(gradients[1], gradients[0], ulp, case=str(dtype))


def test_rows_past_two_to_the_31_elements() -> None:
    """The kernels reach a row by its 64-bit offset: two rows 2^31 elements apart in one storage, on a GPU."""
    if DEVICE == "cpu":
        pytest.skip("needs 8 GiB on a GPU")
    stride = 2**31 + 64
    storage = torch.zeros(stride + 100, device=DEVICE)
    logits = torch.as_strided(storage, (2, 100), (stride, 1))
    logits[1] = torch.arange(100.0, device=DEVICE)
    target = torch.tensor([1, 99], device=DEVICE)
    logp, _, _ = kernel.statistics(logits, target, LogitMap(1.0, None, 1.0), entropy_gradient=False)
    assert_close_where(logp, logits.double().log_softmax(-1)[[0, 1], target.tolist()], 1e-5)


def test_no_tokens_and_inputs_that_are_not_contiguous() -> None:
    nothing = results(inputs_on_device(0, 8, 33), **how(), **PLAIN)
    assert [tuple(x.shape) for x in nothing] == [(0,), (0,), (0, 8), (33, 8)]
    hidden, head, target = inputs_on_device(9, 16, 130)
    strided = (hidden.T.contiguous().T, torch.stack([head, -head], 1)[:, 0], torch.stack([target, target], 1)[:, 1])
    assert not any(x.is_contiguous() for x in strided)
    found, plain = (results(inputs, **how(), **PLAIN) for inputs in (strided, (hidden, head, target)))
    for name, a, b in zip(RESULTS, found, plain, strict=True):
        assert_close_where(a, b, 1e-5, case=name)


def test_float64_is_refused() -> None:
    with pytest.raises(UserError, match="float64: use auto or torch"):
        results(inputs_on_device(3, 8, 33, dtype=torch.float64), **how(), **PLAIN)


@pytest.mark.parametrize("mutant", ["none", "zero", "2 % too large", "no softmax term"])
def test_the_comparison_rejects(mutant: str) -> None:
    hidden, head, target = inputs = inputs_on_device(21, 16, 4099)
    found, eager, truth = compared(inputs, **how(train_head=False, entropy_gradient=False), **PLAIN)
    found[2] = {
        "none": found[2],
        "zero": 0 * found[2],
        "2 % too large": 1.02 * found[2],
        "no softmax term": torch.arange(len(hidden), device=DEVICE).cos()[:, None] * head[target],
    }[mutant]
    message = disagreement(found, eager, truth, floor=1e-6, names=RESULTS)
    assert (message is None) == (mutant == "none"), message
