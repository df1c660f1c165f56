"""Micro-batches whose loss and gradients are known: by the oracle's closed forms, and autograd through the head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import Any

import torch
from torch import Tensor

from rlvr.batch import MicroBatch, TrainRow, micro_batch
from rlvr.logprob import LogitMap
from rlvr.loss import policy_loss
from rlvr.types import LossSpec, Totals
from support.oracle import Row, loss_and_gradient
from support.precision import head_truth

LENGTHS = (12, 9, 1, 14, 7, 11, 12, 10)
SEQUENCE_LOG_RATIOS = [log(w) for w in (0.6, 0.7, 0.95, 1.05, 1.4, 1.6, 2.2, 2.6)]  # by row; A > 0 in the even ones
TOTALS = Totals(rows=len(LENGTHS) + 3, tokens=sum(LENGTHS) + 17)  # rows and tokens that were skipped count
WIDTH, VOCABULARY = 12, 67
RESULTS = ("loss", "dH", "dW")
HEAD_MAP = LogitMap(soft_cap=6.0, scale=1.25)
HEAD: dict[str, Any] = {"logit_map": HEAD_MAP}


def make_spec(loss_type: str, **values: Any) -> LossSpec:
    default = LossSpec(
        loss_type=loss_type,  # type: ignore[arg-type]
        epsilon=0.2,
        epsilon_high=2.0 if loss_type == "cispo" else 0.28,
        delta=None,
        beta=0.0,
        kl_unbiased=True,
        importance_correction="off",
        importance_min=None,
        importance_max=1.7,
        entropy_bonus=0.0,
        max_completion_tokens=14,
        temperature=0.9,
    )
    return replace(default, **values)


@dataclass(frozen=True)
class Case:
    """Hidden states and head in float64, and a micro-batch whose old policy, reference and engine are some way off."""

    hidden: Tensor
    head: Tensor
    micro: MicroBatch


def make_case(spec: LossSpec, *, moved: bool, lengths: tuple[int, ...] = LENGTHS) -> Case:
    """Log ratios of standard deviation 0.5 (the clip is at -0.22 and 0.25), for gspo rows at SEQUENCE_LOG_RATIOS.

    Without `moved` there is no old policy. Row 3 of the numbering has no token.
    """
    generator = torch.Generator().manual_seed(13)
    tokens = sum(lengths)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, head = noise(tokens, WIDTH), noise(VOCABULARY, WIDTH) / WIDTH**0.5
    advantages = [(-1.0 if i % 2 else 1.0) * (0.25 + 0.25 * i) for i in range(len(lengths))]
    rows = [
        TrainRow(0, (1, 2), torch.randint(VOCABULARY, (n,), generator=generator), torch.zeros(n), advantage)
        for n, advantage in zip(lengths, advantages, strict=True)
    ]
    micro = micro_batch(rows, torch.device("cpu"))
    logp = head_truth(hidden, head, micro.target_T, temperature=spec.temperature, **HEAD)[0]
    shift = 0.5 * noise(tokens)
    if spec.loss_type == "gspo":
        for i in range(len(lengths)):
            mine = micro.row_T == i
            shift[mine] += SEQUENCE_LOG_RATIOS[i] - shift[mine].mean()
    old = logp - shift if moved else logp
    micro = replace(
        micro,
        row_T=micro.row_T + (micro.row_T >= 3),
        old_logp_T=old if moved else None,
        sampler_logp_T=old + 0.4 * noise(tokens),
        reference_logp_T=logp + 0.3 * noise(tokens),
    )
    return Case(hidden, head, micro)


def truth(case: Case, spec: LossSpec) -> list[Tensor]:
    """Loss, dH and dW in float64."""
    hidden, head = (x.clone().requires_grad_() for x in (case.hidden, case.head))
    logp, entropy = head_truth(hidden, head, case.micro.target_T, temperature=spec.temperature, **HEAD)
    value, gradient = truth_on_logprobs(logp.detach(), case.micro, spec)
    share = spec.entropy_bonus / TOTALS.tokens
    pull = (logp * gradient).sum() - share * entropy.sum()
    return [value - share * entropy.sum().detach(), *torch.autograd.grad(pull, (hidden, head))]


def truth_on_logprobs(logp: Tensor, micro: MicroBatch, spec: LossSpec) -> list[Tensor]:
    """Loss and its derivative by each log-probability, the entropy left out, by the oracle."""
    old = logp if micro.old_logp_T is None else micro.old_logp_T
    assert micro.reference_logp_T is not None
    rows = []
    for i in torch.unique(micro.row_T).tolist():
        mine = micro.row_T == i
        now, before, reference, sampled = (
            x[mine].tolist() for x in (logp, old, micro.reference_logp_T, micro.sampler_logp_T)
        )
        rows.append(Row(now, before, reference, micro.advantage_T[mine][0].item(), sampled))
    value, gradient = loss_and_gradient(rows, spec, num_rows=TOTALS.rows, num_tokens=TOTALS.tokens)
    return [torch.tensor(value, dtype=torch.float64), torch.tensor(gradient, dtype=torch.float64)]


def computed(
    case: Case, spec: LossSpec, dtype: torch.dtype, *, train_head: bool = True, device: str = "cpu", **how: Any
) -> list[Tensor]:
    """Loss, dH and dW (where trained) of policy_loss for inputs in `dtype`; log-probabilities are at least float32."""
    micro = converted(case.micro, torch.float64 if dtype == torch.float64 else torch.float32, device)
    hidden = case.hidden.to(device, dtype).requires_grad_()
    head = case.head.to(device, dtype).requires_grad_(train_head)
    loss, _ = policy_loss(hidden, head, micro, totals=TOTALS, spec=spec, **HEAD, **how)
    gradients = torch.autograd.grad(loss, (hidden, head) if train_head else (hidden,))
    return [x.cpu() for x in (loss.detach(), *gradients)]


def converted(micro: MicroBatch, dtype: torch.dtype, device: str) -> MicroBatch:
    """`micro` on a device, its log-probabilities in a type."""
    numbers = {name: getattr(micro, name) for name in ("old_logp_T", "sampler_logp_T", "reference_logp_T")}
    moved: dict[str, Any] = {name: x if x is None else x.to(device, dtype) for name, x in numbers.items()}
    ids: dict[str, Any] = {name: getattr(micro, name).to(device) for name in ("target_T", "row_T", "advantage_T")}
    return replace(micro, **moved, **ids)
