"""The policy loss with its gradient in the forward pass: closed forms in float64, eager torch in float32, memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any, get_args

import pytest
import torch

from rlvr.loss import policy_loss
from rlvr.loss.fused import is_local
from rlvr.runtime.ledger import LiveStorages
from rlvr.types import Correction, LossType
from support.loss_cases import HEAD, LENGTHS, RESULTS, TOTALS, computed, converted, make_case, make_spec, truth
from support.loss_mutants import MUTANTS
from support.oracle import Row, ratios
from support.precision import assert_agree, assert_close_where, assert_relative, disagreement, head_truth, relative

CPU = torch.device("cpu")

LOSS_TYPES = get_args(LossType)
MODES = get_args(Correction)
KL = {"no kl": {}, "kl": {"beta": 0.04}, "plain kl": {"beta": 0.04, "kl_unbiased": False}}


@pytest.mark.parametrize("loss_type, share", [("grpo", 0.05), ("gspo", 0.01)])
def test_the_inputs_reach_every_branch(loss_type: str, share: float) -> None:
    """At least this share of the tokens lies below, inside, above the clip and beyond delta; of gspo at least a row."""
    spec = make_spec(loss_type, delta=1.7)
    case = make_case(spec, moved=True)
    micro, cells = case.micro, dict.fromkeys(product((-1, 1), range(4)), 0)
    logp = head_truth(case.hidden, case.head, micro.target_T, temperature=spec.temperature, **HEAD)[0]
    assert micro.old_logp_T is not None
    for i in torch.unique(micro.row_T).tolist():
        mine = micro.row_T == i
        advantage = micro.advantage_T[mine][0].item()
        row = Row(logp[mine].tolist(), micro.old_logp_T[mine].tolist(), [], advantage, [])
        for w in ratios(spec, row):
            cells[1 if advantage > 0 else -1, sum(w > limit for limit in (0.8, 1.28, 1.7))] += 1
    assert min(cells.values()) >= share * sum(cells.values()), cells
    assert torch.bincount(micro.row_T).tolist() == [*LENGTHS[:3], 0, *LENGTHS[3:]]


@pytest.mark.parametrize("kl, bonus", [("no kl", 0.0), ("kl", 0.3), ("plain kl", 0.0)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradients(loss_type: str, moved: bool, mode: str, kl: str, bonus: float) -> None:
    spec = make_spec(loss_type, importance_correction=mode, entropy_bonus=bonus, importance_min=0.6, **KL[kl])
    case = make_case(spec, moved=moved)
    expected = truth(case, spec)
    found = computed(case, spec, torch.float64, impl="torch", chunk_rows=5)
    assert_agree(found, expected, expected, floor=1e-12, names=RESULTS)
    whole = computed(case, spec, torch.float64, impl="torch", train_head=False)
    assert len(whole) == 2
    for a, b in zip(whole, found[:2], strict=True):
        assert_close_where(a, b, 1e-13)


@pytest.mark.parametrize("delta", [1.7, 1.28])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_delta(loss_type: str, delta: float) -> None:
    spec = make_spec(loss_type, delta=delta)
    case = make_case(spec, moved=True)
    expected = truth(case, spec)
    found = computed(case, spec, torch.float64, impl="torch", chunk_rows=5)
    assert_agree(found, expected, expected, floor=1e-12, names=RESULTS)


FULL = {"importance_correction": "token_truncate", "beta": 0.04, "entropy_bonus": 0.1}


@pytest.mark.parametrize("dtype, floor", [(torch.float32, 5e-6), (torch.bfloat16, 4e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_low_precision_is_no_worse_than_eager_torch(
    loss_type: str, moved: bool, dtype: torch.dtype, floor: float
) -> None:
    """The truth is that of the rounded inputs."""
    spec = make_spec(loss_type, **FULL)
    case = make_case(spec, moved=moved)
    rounded = replace(case, hidden=case.hidden.to(dtype).double(), head=case.head.to(dtype).double())
    found = computed(rounded, spec, dtype, impl="torch", chunk_rows=7)
    eager = computed(rounded, spec, dtype, impl="reference")
    for name, f, e, t in zip(RESULTS, found, eager, truth(rounded, spec), strict=True):
        assert_relative(f, t, max(2 * relative(e, t), floor), case=name)


def test_small_gradients_survive_float16() -> None:
    """A step of a million tokens: weights of 1e-6 times a softmax of 1e-2 are nothing in float16, their sum is not."""
    spec = make_spec("dapo")
    case = make_case(spec, moved=True)
    totals, scale = replace(TOTALS, tokens=1_000_000), 2.0**16  # the scale of the loss, as a gradient scaler sets it
    results = []
    for dtype in (torch.float16, torch.float64):
        hidden = case.hidden.to(dtype).requires_grad_()
        micro = converted(case.micro, torch.float64, "cpu")
        head = case.head.to(dtype).requires_grad_()
        loss, _ = policy_loss(hidden, head, micro, totals=totals, spec=spec, impl="torch", **HEAD)
        results.append([x.double() for x in torch.autograd.grad(loss * scale, (hidden, head))])
    for found, truly in zip(*results, strict=True):
        assert_relative(found, truly, 0.02)


@pytest.mark.parametrize("loss_type, mode, moved, kl, local", [
    ("grpo", "off", False, "kl", True),
    ("grpo", "token_mask", False, "kl", True),
    ("grpo", "sequence_mask", True, "kl", True),
    ("grpo", "sequence_mask", False, "kl", False),
    ("gspo", "off", False, "plain kl", True),
    ("gspo", "off", False, "kl", False),
    ("gspo", "token_truncate", False, "no kl", False),
    ("gspo", "off", True, "no kl", False),
])  # fmt: skip
def test_where_it_is_legal_the_logits_are_made_once(
    loss_type: str, mode: str, moved: bool, kl: str, local: bool
) -> None:
    """Else those of all chunks but the last are made again."""
    spec = make_spec(loss_type, importance_correction=mode, **KL[kl])
    case = make_case(spec, moved=moved)
    assert is_local(spec, has_old=moved) == local
    made: list[int] = []

    class Count(LiveStorages):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.exp.default and args[0].dim() == 2:
                made.append(len(args[0]))
            return super().__torch_dispatch__(func, types, args, kwargs)

    with Count(CPU, reads=False):
        computed(case, spec, torch.float64, impl="torch", chunk_rows=19)
    assert sum(LENGTHS) == 76 and made == [19] * (4 if local else 7)


@pytest.mark.parametrize("train_head", [True, False])
def test_memory_is_that_of_a_chunk(train_head: bool) -> None:
    spec, vocabulary, chunk_rows = make_spec("dapo", **FULL), 20_000, 4
    case = make_case(spec, moved=True)
    hidden, head = case.hidden.float().requires_grad_(), torch.randn(vocabulary, 12).requires_grad_(train_head)
    micro = converted(case.micro, torch.float32, "cpu")
    with LiveStorages(CPU, reads=False) as live:
        loss, _ = policy_loss(hidden, head, micro, totals=TOTALS, spec=spec, impl="torch", chunk_rows=chunk_rows)
        between = live.bytes
        torch.autograd.backward(loss)
    chunk_bytes, head_bytes = chunk_rows * vocabulary * 4, (train_head and 3 * head.nbytes)
    small = 200 * 76 * 8
    assert live.peak_bytes <= 4 * chunk_bytes + head_bytes + small
    assert between <= head_bytes + small < 3 * chunk_bytes + head_bytes
    assert 76 * vocabulary * 4 > 4 * chunk_bytes + small  # all logits would be seen


def test_without_a_graph_nothing_is_kept_and_the_loss_is_the_same() -> None:
    spec = make_spec("dapo", **FULL)
    case = make_case(spec, moved=True)
    with torch.no_grad():
        loss, stats = policy_loss(
            case.hidden, case.head.requires_grad_(), case.micro, totals=TOTALS, spec=spec, chunk_rows=9, **HEAD
        )
    assert not loss.requires_grad and not stats.logp_T.requires_grad
    assert loss.item() == pytest.approx(truth(case, spec)[0].item(), abs=1e-12)


@pytest.mark.parametrize(
    "loss_type, mutant",
    [pair for pair in product(LOSS_TYPES, MUTANTS) if pair != ("sapo", "clip_high := clip_low")],  # sapo has no clip
)
def test_the_comparison_rejects(loss_type: str, mutant: str) -> None:
    spec = make_spec(loss_type)
    case = make_case(spec, moved=True)
    expected, eager = truth(case, spec), computed(case, spec, torch.float32, impl="reference")
    found = computed(case, spec, torch.float32, impl="torch")
    assert_agree(found, eager, expected, floor=2e-6, names=RESULTS)
    wrong = MUTANTS[mutant](case, spec, "torch", "cpu")
    assert disagreement(wrong, eager, expected, floor=2e-6, names=RESULTS)
