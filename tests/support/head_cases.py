"""Inputs for the head, and what comes out of it with every gradient."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rlvr.logprob import Impl, LogitMap, token_logprobs
from support.precision import head_truth

RESULTS = ("logp", "entropy", "dH", "dW")
PLAIN: dict[str, Any] = {"temperature": 1.0, "logit_map": LogitMap()}
MAPS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "temperature": PLAIN | {"temperature": 0.7},
    "scale": {"temperature": 1.3, "logit_map": LogitMap(scale=0.25)},
    "cap": {"temperature": 0.8, "logit_map": LogitMap(soft_cap=4.0, scale=1.5)},
}
# tokens, hidden, vocabulary: a power of two; three rows of seven with a ragged vocabulary; fewer tokens than a chunk
SHAPES = [(64, 32, 256), (21, 16, 4099), (3, 8, 33)]


def make_inputs(tokens: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and targets; the first and the last id are among the targets."""
    generator = torch.Generator().manual_seed(tokens + vocabulary)
    hidden = torch.randn(tokens, width, generator=generator)
    head = torch.randn(vocabulary, width, generator=generator) * 3 / width**0.5
    target = torch.randint(vocabulary, (tokens,), generator=generator)
    target[: min(2, tokens)] = torch.tensor([0, vocabulary - 1])[:tokens]
    return hidden.to(dtype), head.to(dtype), target


def results(
    inputs: tuple[Tensor, Tensor, Tensor],
    *,
    impl: Impl | Literal["formula"],
    entropy_gradient: bool,
    train_head: bool,
    **options: Any,
) -> list[Tensor]:
    """Log-probabilities, entropies, dH and dW (where trained) for fixed upstream gradients; impl "formula" is ours."""
    hidden, head, target = inputs
    leaves = (hidden.detach().requires_grad_(), head.detach().requires_grad_(train_head))
    if impl == "formula":
        options.pop("chunk_rows", None)
        logp, entropy = head_truth(*leaves, target, **options)
    else:
        logp, entropy = token_logprobs(*leaves, target, impl=impl, entropy_gradient=entropy_gradient, **options)
    number = torch.arange(len(target), dtype=logp.dtype, device=logp.device)
    value = (logp * number.cos()).sum()
    if entropy_gradient:
        value = value + (entropy * number.sin()).sum()
    gradients = torch.autograd.grad(value, leaves if train_head else leaves[:1])
    return [logp.detach(), entropy.detach(), *gradients]


def compared(inputs: tuple[Tensor, Tensor, Tensor], **how: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What the code finds, eager torch in the same type, and the truth: the formulas in float64."""
    hidden, head, target = inputs
    double = (hidden.double(), head.double(), target)
    impl, chunk_rows = how.pop("impl"), how.pop("chunk_rows")
    found = results(inputs, impl=impl, chunk_rows=chunk_rows, **how)
    return found, results(inputs, impl="reference", **how), results(double, impl="formula", **how)
