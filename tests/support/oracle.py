"""What the loss must be: the formulas of docs/algorithms.md token by token in Python floats, with closed gradients."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Any


@dataclass(frozen=True)
class Row:
    """One completion: log-probabilities by token (current, old, reference, the engine's) and its advantage."""

    logp: list[float]
    old: list[float]
    reference: list[float]
    advantage: float
    sampled: list[float]


def loss_and_gradient(rows: list[Row], spec: Any, *, num_rows: int, num_tokens: int) -> tuple[float, list[float]]:
    """Loss of the step with B = num_rows and N = num_tokens, and its derivative by each token's logp, row after row."""
    loss, gradient = 0.0, []
    for row in rows:
        length = len(row.logp)
        weight = {
            "grpo": 1 / (length * num_rows),
            "gspo": 1 / (length * num_rows),
            "sapo": 1 / (length * num_rows),
            "bnpo": 1 / num_tokens,
            "dr_grpo": 1 / (num_rows * spec.max_completion_tokens),
            "dapo": 1 / num_tokens,
            "cispo": 1 / num_tokens,
        }[spec.loss_type]
        ratio, divergence, c = ratios(spec, row), divergences(row), corrections(spec, row)
        mean_divergence = sum(divergence) / length
        passed = [sum(c) / length] * length if spec.loss_type == "gspo" else c
        for t in range(length):
            g, dg = policy_term(spec, ratio[t], row.logp[t], row.advantage)
            k, dk = kl_term(spec, ratio[t], row.logp[t] - row.reference[t], divergence[t], mean_divergence)
            loss += weight * (c[t] * g + spec.beta * k)
            gradient.append(weight * (passed[t] * dg + spec.beta * dk))
    return loss, gradient


def ratios(spec: Any, row: Row) -> list[float]:
    log_ratio = [logp - old for logp, old in zip(row.logp, row.old, strict=True)]
    if spec.loss_type == "gspo":
        log_ratio = [sum(log_ratio) / len(log_ratio)] * len(log_ratio)
    return [exp(s) for s in log_ratio]


def corrections(spec: Any, row: Row) -> list[float]:
    if spec.importance_correction == "off":
        return [1.0] * len(row.old)
    d = [old - sampled for old, sampled in zip(row.old, row.sampled, strict=True)]
    weight = {
        "token_truncate": [exp(x) for x in d],
        "token_mask": [exp(x) for x in d],
        "sequence_truncate": [exp(sum(d))] * len(d),
        "sequence_mask": [exp(sum(d))] * len(d),
    }[spec.importance_correction]
    low = 0.0 if spec.importance_min is None else spec.importance_min
    high = spec.importance_max
    if spec.importance_correction.endswith("truncate"):
        return [min(max(c, low), high) for c in weight]
    return [c if low <= c <= high else 0.0 for c in weight]


def divergences(row: Row) -> list[float]:
    return [exp(ref - logp) - (ref - logp) - 1 for logp, ref in zip(row.logp, row.reference, strict=True)]


def policy_term(spec: Any, w: float, logp: float, advantage: float) -> tuple[float, float]:
    if spec.loss_type == "cispo":
        capped = min(w, spec.epsilon_high)
        return -capped * advantage * logp, -capped * advantage
    if spec.loss_type == "sapo":
        tau = 1.0 if advantage > 0 else 1.05
        s = 1 / (1 + exp(-tau * (w - 1)))
        return -4 / tau * s * advantage, -4 * s * (1 - s) * w * advantage
    u = w if spec.delta is None else min(w, spec.delta)
    bounded = min(max(w, 1 - spec.epsilon), 1 + spec.epsilon_high)
    passes = u * advantage <= bounded * advantage and (spec.delta is None or w <= spec.delta)
    return -min(u * advantage, bounded * advantage), -w * advantage if passes else 0.0


def kl_term(spec: Any, w: float, difference: float, k: float, mean_k: float) -> tuple[float, float]:
    """`difference` is logp - ref; with the sequence's ratio the gradient of every token's K·w reaches this token."""
    if not spec.kl_unbiased:
        return k, 1 - exp(-difference)
    if spec.loss_type == "gspo":
        return w * k, w * (1 - exp(-difference) + mean_k)
    return w * k, w * difference


def entropy_and_gradient(logits: list[float], temperature: float) -> tuple[float, list[float]]:
    """H of softmax(logits / temperature), and its derivative by each logit."""
    largest = max(logits)
    powers = [exp((x - largest) / temperature) for x in logits]
    total = sum(powers)
    entropy = -sum(y / total * log(y / total) for y in powers)
    return entropy, [-y / total * (log(y / total) + entropy) / temperature for y in powers]
