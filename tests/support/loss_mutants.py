"""Wrong losses that a comparison must reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlvr.types import LossSpec
from support.loss_cases import HEAD, HEAD_MAP, LENGTHS, Case, computed, make_case, truth_on_logprobs
from support.precision import head_truth


def one_token_too_many(case: Case, spec: LossSpec) -> Case:
    """Every row trains on a token after its end as well."""
    longer = make_case(spec, moved=True, lengths=tuple(n + 1 for n in LENGTHS))
    ends = torch.tensor([sum(n + 1 for n in LENGTHS[: i + 1]) - 1 for i in range(len(LENGTHS))])
    true = torch.ones(len(longer.hidden), dtype=torch.bool).index_fill(0, ends, False)

    def spread(mine: Tensor, other: Tensor) -> Tensor:
        return other.clone().index_put((true.nonzero()[:, 0],), mine)

    names = ("target_T", "old_logp_T", "sampler_logp_T", "reference_logp_T")
    values: dict[str, Any] = {name: spread(getattr(case.micro, name), getattr(longer.micro, name)) for name in names}
    return Case(spread(case.hidden, longer.hidden), case.head, replace(longer.micro, **values))


def without_softmax(case: Case, spec: LossSpec, impl: str, device: str) -> list[Tensor]:
    """The gradient of each token's own logit alone, 1[target] without the softmax."""
    loss, _, dhead = computed(case, spec, torch.float32, impl=impl, device=device)
    hidden, target = case.hidden.clone().requires_grad_(), case.micro.target_T
    logp = head_truth(hidden.detach(), case.head, target, temperature=spec.temperature, **HEAD)[0]
    x, cap = HEAD_MAP.scale * (hidden * case.head[target]).sum(-1), HEAD_MAP.soft_cap
    assert cap is not None
    own = cap * torch.tanh(x / cap) / spec.temperature
    (dhidden,) = torch.autograd.grad(own, hidden, truth_on_logprobs(logp, case.micro, spec)[1])
    return [loss, dhidden.float(), dhead]


def scaled(factor: float) -> Callable[[Case, LossSpec, str, str], list[Tensor]]:
    def wrong(case: Case, spec: LossSpec, impl: str, device: str) -> list[Tensor]:
        loss, *gradients = computed(case, spec, torch.float32, impl=impl, device=device)
        return [loss, *(factor * g for g in gradients)]

    return wrong


def mask_ignored(case: Case, spec: LossSpec, impl: str, device: str) -> list[Tensor]:
    longer = one_token_too_many(case, spec)
    loss, dhidden, dhead = computed(longer, spec, torch.float32, impl=impl, device=device)
    ends = {sum(n + 1 for n in LENGTHS[: i + 1]) - 1 for i in range(len(LENGTHS))}
    return [loss, dhidden[[t for t in range(len(dhidden)) if t not in ends]], dhead]


def one_clip(case: Case, spec: LossSpec, impl: str, device: str) -> list[Tensor]:
    return computed(case, replace(spec, epsilon_high=spec.epsilon), torch.float32, impl=impl, device=device)


MUTANTS: dict[str, Callable[[Case, LossSpec, str, str], list[Tensor]]] = {
    "no gradient": scaled(0.0),
    "2 % too large": scaled(1.02),
    "no softmax term": without_softmax,
    "mask ignored": mask_ignored,
    "clip_high := clip_low": one_clip,
}
