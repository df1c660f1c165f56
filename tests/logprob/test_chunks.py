"""The head in chunks against the formulas in float64: values, every gradient, precision, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlvr.logprob import LogitMap, resolve, token_logprobs
from rlvr.runtime.ledger import LiveStorages
from rlvr.types import UserError
from support.head_cases import MAPS, PLAIN, RESULTS, SHAPES, compared, make_inputs, results
from support.precision import assert_agree, assert_close_where, assert_relative, assert_same_bits, disagreement

CPU = torch.device("cpu")

FLOORS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 4e-3}


@pytest.mark.parametrize("entropy_gradient", [True, False])
@pytest.mark.parametrize("train_head", [True, False])
@pytest.mark.parametrize("logit_map", MAPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOORS, ids=str)
def test_values_and_every_gradient(
    dtype: torch.dtype, shape: tuple[int, int, int], logit_map: str, train_head: bool, entropy_gradient: bool
) -> None:
    how = {"impl": "torch", "chunk_rows": 8, "train_head": train_head, "entropy_gradient": entropy_gradient}
    outcome = compared(make_inputs(*shape, dtype), **how, **MAPS[logit_map])
    assert len(outcome[0]) == 3 + train_head
    assert_agree(*outcome, floor=FLOORS[dtype], names=RESULTS)


@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_a_vocabulary_of_151_936(chunk_rows: int | None) -> None:
    inputs = make_inputs(5, 16, 151_936, torch.float32)
    how = {"impl": "torch", "chunk_rows": chunk_rows, "train_head": True, "entropy_gradient": True}
    found, eager, truth = compared(inputs, **how, **PLAIN)
    assert_agree(found, eager, truth, floor=1e-6, names=RESULTS)
    assert_close_where(found[0], truth[0], 1e-5, case="logp")
    assert_close_where(found[1], truth[1], 2e-5, case="entropy")
    assert_relative(found[2], truth[2], 5e-6, case="dH")


@pytest.mark.parametrize("dtype, bar", [(torch.float32, 5e-6), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("entropy_gradient", [True, False])
def test_precision_where_no_logit_is_rounded(dtype: torch.dtype, bar: float, entropy_gradient: bool) -> None:
    """Sums of 24 products of ±1 and ±1/2 are exact in bfloat16 too: what remains is the softmax and the way back."""
    generator = torch.Generator().manual_seed(2)
    values = torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=dtype)
    hidden, head = (values[torch.randint(4, (n, 24), generator=generator)] for n in (40, 2048))
    target = torch.randint(2048, (40,), generator=generator)
    how = {"impl": "torch", "chunk_rows": 16, "train_head": False, "entropy_gradient": entropy_gradient}
    found, _, truth = compared((hidden, head, target), **how, **PLAIN)
    assert_same_bits((hidden @ head.T).double(), hidden.double() @ head.double().T)
    assert_close_where(found[0], truth[0], 1e-5, case="logp")
    assert_close_where(found[1], truth[1], 2e-5, case="entropy")
    assert_relative(found[2], truth[2], bar, case="dH")


@given(
    tokens=st.integers(1, 24),
    vocabulary=st.integers(2, 40),
    chunk_rows=st.integers(1, 30),
    logit_map=st.sampled_from(sorted(MAPS)),
    train_head=st.booleans(),
    entropy_gradient=st.booleans(),
)
def test_the_size_of_a_chunk_changes_nothing(
    tokens: int, vocabulary: int, chunk_rows: int, logit_map: str, train_head: bool, entropy_gradient: bool
) -> None:
    inputs = make_inputs(tokens, 6, vocabulary, torch.float64)
    how: dict[str, Any] = {"impl": "torch", "train_head": train_head, "entropy_gradient": entropy_gradient}
    how |= MAPS[logit_map]
    whole = results(inputs, chunk_rows=tokens, **how)
    found = results(inputs, chunk_rows=chunk_rows, **how)
    for name, a, b in zip(RESULTS[: len(whole)], found, whole, strict=True):
        assert_close_where(a, b, 1e-12, case=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("train_head", [True, False])
def test_inputs_that_are_not_contiguous(dtype: torch.dtype, train_head: bool) -> None:
    hidden, head, target = make_inputs(20, 16, 130, dtype)
    strided = (hidden.T.contiguous().T, torch.stack([head, -head], 1)[:, 0], torch.stack([target, target], 1)[:, 1])
    assert not any(x.is_contiguous() for x in strided)
    how: dict[str, Any] = {"impl": "torch", "train_head": train_head, "entropy_gradient": True} | MAPS["cap"]
    found, plain = results(strided, chunk_rows=7, **how), results((hidden, head, target), chunk_rows=7, **how)
    for name, a, b in zip(RESULTS[: len(plain)], found, plain, strict=True):
        assert_close_where(a, b, 1e-5 if dtype == torch.float32 else 2e-2, case=name)


@pytest.mark.parametrize("entropy_gradient", [True, False])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_gradcheck(soft_cap: float | None, entropy_gradient: bool) -> None:
    """It goes backward several times through one graph, too."""
    hidden, head, target = make_inputs(5, 3, 7, torch.float64)

    def outputs(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {
            "temperature": 0.9,
            "logit_map": LogitMap(soft_cap=soft_cap, scale=1.2),
            "chunk_rows": 2,
        }
        both = token_logprobs(h, w, target, entropy_gradient=entropy_gradient, **options)
        return both if entropy_gradient else both[:1]

    assert torch.autograd.gradcheck(outputs, (hidden.requires_grad_(), head.requires_grad_()))
    assert torch.autograd.gradcheck(lambda h: outputs(h, head.detach()), hidden)


@pytest.mark.parametrize("train_head", [True, False])
def test_no_tokens_at_all(train_head: bool) -> None:
    found = results(
        make_inputs(0, 8, 33, torch.float32), impl="torch", train_head=train_head, entropy_gradient=True, **PLAIN
    )
    assert [tuple(x.shape) for x in found] == [(0,), (0,), (0, 8), (33, 8)][: 3 + train_head]
    assert not any(x.any() for x in found)


def test_a_frozen_head_gets_no_gradient_and_the_entropy_none_unless_asked() -> None:
    hidden, head, target = make_inputs(9, 8, 33, torch.float32)
    logp, entropy = token_logprobs(hidden.requires_grad_(), head, target, temperature=1.0, chunk_rows=4)
    assert logp.requires_grad and not entropy.requires_grad
    logp.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None and head.grad is None
    with torch.no_grad():
        assert not token_logprobs(hidden, head, target, temperature=1.0)[0].requires_grad


TOKENS, VOCABULARY, CHUNK = 96, 5000, 8


@pytest.mark.parametrize("entropy_gradient", [True, False])
@pytest.mark.parametrize("train_head", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_that_of_a_chunk(dtype: torch.dtype, train_head: bool, entropy_gradient: bool) -> None:
    """Four buffers of a chunk at most, two of them between the passes, and with a trained head two of its size."""
    inputs = make_inputs(TOKENS, 16, VOCABULARY, dtype)
    chunk_bytes = CHUNK * VOCABULARY * 4
    rest_bytes = 6 * inputs[0].nbytes + (3 * VOCABULARY * 16 * 4 if train_head else 0)
    peaks = {}
    for impl in ("torch", "reference"):
        options: dict[str, Any] = {"chunk_rows": CHUNK} if impl == "torch" else {}
        with LiveStorages(CPU, reads=False) as live:
            results(inputs, impl=impl, train_head=train_head, entropy_gradient=entropy_gradient, **PLAIN, **options)
        peaks[impl] = live.peak_bytes
    assert peaks["torch"] <= 4 * chunk_bytes + rest_bytes
    assert peaks["reference"] >= 2 * TOKENS * VOCABULARY * 4  # the count does see what is there


@pytest.mark.parametrize("entropy_gradient", [True, False])
@pytest.mark.parametrize("train_head", [True, False])
def test_no_logits_are_kept_for_the_backward_pass(train_head: bool, entropy_gradient: bool) -> None:
    hidden, head, target = make_inputs(TOKENS, 16, VOCABULARY, torch.float32)
    sizes: list[int] = []

    def note(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with LiveStorages(CPU, reads=False) as live, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        logp, _ = token_logprobs(
            hidden.requires_grad_(),
            head.requires_grad_(train_head),
            target,
            temperature=1.0,
            entropy_gradient=entropy_gradient,
            chunk_rows=CHUNK,
        )
    assert sizes and max(sizes) <= max(hidden.numel(), head.numel())
    keeps = 1 + entropy_gradient if train_head or entropy_gradient else 0  # of the last chunk
    assert live.bytes <= keeps * CHUNK * VOCABULARY * 4 + 2 * hidden.nbytes
    assert logp.requires_grad


def no_softmax_term(inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    _, head, target = inputs
    return torch.arange(len(target)).cos()[:, None] * head[target]


@pytest.mark.parametrize("mutant", ["none", "zero", "2 % too large", "no softmax term", "neighbour's gradient"])
def test_the_comparison_rejects(mutant: str) -> None:
    inputs = make_inputs(21, 16, 4099, torch.float32)
    how = {"impl": "torch", "chunk_rows": 8, "train_head": False, "entropy_gradient": False}
    found, eager, truth = compared(inputs, **how, **PLAIN)
    found[2] = {
        "none": found[2],
        "zero": 0 * found[2],
        "2 % too large": 1.02 * found[2],
        "no softmax term": no_softmax_term(inputs),
        "neighbour's gradient": found[2].roll(1, 0),
    }[mutant]
    message = disagreement(found, eager, truth, floor=FLOORS[torch.float32], names=RESULTS)
    assert (message is None) == (mutant == "none"), message


def test_triton_without_a_gpu_is_an_error_that_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    hidden, head, target = make_inputs(3, 8, 33, torch.float32)
    with pytest.raises(UserError, match=r"NVIDIA GPU.*cpu.*use auto or torch"):
        token_logprobs(hidden, head, target, temperature=1.0, impl="triton")
    assert resolve("auto", hidden) == "torch"
