"""What the loss must be: ALGORITHMS' formulas token by token in Python floats, with their gradient in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Any


@dataclass(frozen=True)
class Row:
    """One completion: log-probabilities by token (current, old, reference) and its advantage."""

    logp: list[float]
    old: list[float]
    reference: list[float]
    advantage: float


def loss_and_gradient(rows: list[Row], spec: Any, *, num_rows: int, num_tokens: int) -> tuple[float, list[float]]:
    """Loss of the step with B = num_rows and N = num_tokens, and its derivative by each token's logp, row after row."""
    loss, gradient = 0.0, []
    for row in rows:
        weight = {
            "grpo": 1 / (len(row.logp) * num_rows),
            "bnpo": 1 / num_tokens,
            "dr_grpo": 1 / (num_rows * spec.max_completion_tokens),
            "dapo": 1 / num_tokens,
            "cispo": 1 / num_tokens,
        }[spec.loss_type]
        for logp, old, reference in zip(row.logp, row.old, row.reference, strict=True):
            g, dg = policy_term(spec, logp, old, row.advantage)
            k, dk = kl_term(spec, logp, old, reference)
            loss += weight * (g + spec.beta * k)
            gradient.append(weight * (dg + spec.beta * dk))
    return loss, gradient


def policy_term(spec: Any, logp: float, old: float, advantage: float) -> tuple[float, float]:
    w = exp(logp - old)
    if spec.loss_type == "cispo":
        capped = min(w, spec.epsilon_high)
        return -capped * advantage * logp, -capped * advantage
    u = w if spec.delta is None else min(w, spec.delta)
    clipped = min(max(w, 1 - spec.epsilon), 1 + spec.epsilon_high)
    passes = u * advantage <= clipped * advantage and (spec.delta is None or w <= spec.delta)
    return -min(u * advantage, clipped * advantage), -w * advantage if passes else 0.0


def kl_term(spec: Any, logp: float, old: float, reference: float) -> tuple[float, float]:
    k = exp(reference - logp) - (reference - logp) - 1
    if not spec.kl_unbiased:
        return k, 1 - exp(reference - logp)
    w = exp(logp - old)
    return w * k, w * (logp - reference)
