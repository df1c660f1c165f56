"""Every loss in Triton against closed forms. tests/logprob/test_kernels.py runs this file in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch

from rlvr.loss import kernel, sampler_correction, token_loss
from rlvr.loss.reference import token_weights
from rlvr.types import Correction, LossSpec, LossType
from support.loss_cases import (
    HEAD,
    RESULTS,
    TOTALS,
    Case,
    computed,
    converted,
    make_case,
    make_spec,
    truth,
    truth_on_logprobs,
)
from support.loss_mutants import MUTANTS
from support.precision import assert_agree, assert_close_where, disagreement, head_truth

KL = {"no kl": {}, "kl": {"beta": 0.04}, "plain kl": {"beta": 0.04, "kl_unbiased": False}}

LOSS_TYPES = get_args(LossType)
FLOOR = 5e-6
ON_LOGPROBS = ("loss", "dlogp")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(spec: LossSpec, *, moved: bool) -> None:
    """Loss, dH and dW of a few tokens: the interpreter takes long for each."""
    case = make_case(spec, moved=moved, lengths=(4, 3, 1, 5, 2, 3, 3, 3))
    found = computed(case, spec, torch.float32, impl="triton", chunk_rows=16, device=DEVICE)
    eager = computed(case, spec, torch.float32, impl="reference", device=DEVICE)
    where = f"{spec}, moved={moved}"
    assert_agree(found, eager, truth(case, spec), floor=FLOOR, names=RESULTS, case=where)


@pytest.mark.parametrize("moved, mode", [(True, "token_truncate"), (False, "token_mask")])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradients(loss_type: str, moved: bool, mode: str) -> None:
    low = 0.6 if mode.endswith("truncate") else None
    spec = make_spec(loss_type, importance_correction=mode, importance_min=low, beta=0.04, entropy_bonus=0.3)
    check(spec, moved=moved)


@pytest.mark.parametrize("moved, mode", [(True, "sequence_mask"), (False, "sequence_truncate")])
def test_corrections_of_whole_completions(moved: bool, mode: str) -> None:
    check(make_spec("dr_grpo", importance_correction=mode), moved=moved)


@pytest.mark.parametrize("loss_type", ["grpo", "cispo", "sapo"])
def test_the_plain_kl_term_and_delta(loss_type: str) -> None:
    check(make_spec(loss_type, delta=1.7, **KL["plain kl"]), moved=True)


def on_logprobs(case: Case, spec: LossSpec, *, triton: bool) -> list[torch.Tensor]:
    """Loss and its derivative by the log-probabilities, in float32."""
    logp = head_truth(case.hidden, case.head, case.micro.target_T, temperature=spec.temperature, **HEAD)[0]
    micro = converted(case.micro, torch.float32, DEVICE)
    leaf = logp.float().to(DEVICE).requires_grad_()
    assert micro.old_logp_T is not None
    if triton:
        weight = token_weights(micro.row_T, spec=spec, totals=TOTALS, dtype=torch.float32)
        loss, _ = kernel.completion_loss(leaf, micro.old_logp_T, micro, weight, spec=spec)
    else:
        correction = sampler_correction(micro.old_logp_T, micro.sampler_logp_T, micro.row_T, spec=spec)
        loss = token_loss(
            leaf, micro.old_logp_T, micro.advantage_T, micro.row_T,
            spec=spec, totals=TOTALS, reference_T=micro.reference_logp_T, correction_T=correction,
        )  # fmt: skip
    return [x.cpu() for x in (loss.detach(), *torch.autograd.grad(loss, leaf))]


@pytest.mark.parametrize("block, kl", [(4, "kl"), (1024, "plain kl")])
@pytest.mark.parametrize("mode", get_args(Correction))
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_completions(loss_type: str, mode: str, block: int, kl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions of 1 to 14 tokens in blocks of 4, and in one; a row without tokens among them."""
    monkeypatch.setattr(kernel, "BLOCK", block)
    delta = 1.7 if block == 4 else None
    spec = make_spec(loss_type, importance_correction=mode, delta=delta, **KL[kl])
    case = make_case(spec, moved=True)
    logp = head_truth(case.hidden, case.head, case.micro.target_T, temperature=spec.temperature, **HEAD)[0]
    expected = truth_on_logprobs(logp, case.micro, spec)
    found, eager = (on_logprobs(case, spec, triton=triton) for triton in (True, False))
    where = f"{spec}, blocks of {block}"
    assert_agree(found, eager, expected, floor=FLOOR, names=ON_LOGPROBS, case=where)


def test_the_correction_that_is_reported_is_the_one_applied() -> None:
    spec = make_spec("gspo", importance_correction="sequence_mask")
    micro = converted(make_case(spec, moved=True).micro, torch.float32, DEVICE)
    assert micro.old_logp_T is not None
    weight = torch.ones_like(micro.old_logp_T)
    _, found = kernel.completion_loss(micro.old_logp_T, micro.old_logp_T, micro, weight, spec=spec)
    expected = sampler_correction(micro.old_logp_T, micro.sampler_logp_T, micro.row_T, spec=spec)
    assert found is not None and expected is not None and 0 < (expected == 0).sum() < 76
    assert_close_where(found, expected, 1e-6 + 1e-5 * expected.abs())


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_rejects(mutant: str) -> None:
    spec = make_spec("grpo")
    case = make_case(spec, moved=True)
    eager = computed(case, spec, torch.float32, impl="reference")
    found = MUTANTS[mutant](case, spec, "triton", DEVICE)
    assert disagreement(found, eager, truth(case, spec), floor=FLOOR, names=RESULTS)


@pytest.mark.parametrize("loss_type, mutant", product(LOSS_TYPES, ["none", "no gradient", "2 % too large", "clip"]))
def test_the_comparison_of_completions_rejects(loss_type: str, mutant: str) -> None:
    spec = make_spec(loss_type)
    case = make_case(spec, moved=True)
    logp = head_truth(case.hidden, case.head, case.micro.target_T, temperature=spec.temperature, **HEAD)[0]
    expected, eager = truth_on_logprobs(logp, case.micro, spec), on_logprobs(case, spec, triton=False)
    other = replace(spec, epsilon_high=spec.epsilon) if mutant == "clip" else spec
    loss, gradient = on_logprobs(case, other, triton=True)
    found = [loss, {"no gradient": 0.0, "2 % too large": 1.02}.get(mutant, 1.0) * gradient]
    is_the_same = mutant == "none" or (mutant == "clip" and loss_type == "sapo")  # sapo has no clip
    message = disagreement(found, eager, expected, floor=FLOOR, names=ON_LOGPROBS)
    assert (message is None) == is_the_same, message
