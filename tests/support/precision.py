"""When a result in low precision is right: no more than twice as far from the truth as torch in the same type."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def error(found: Tensor, truth: Tensor) -> float:
    """Largest distance of a component."""
    return (found.double() - truth).abs().max().item()


def relative(found: Tensor, truth: Tensor) -> float:
    return ((found.double() - truth).norm() / truth.norm()).item()


def agree(found: Sequence[Tensor], eager: Sequence[Tensor], truth: Sequence[Tensor], *, floor: float) -> bool:
    """Each result within max(2 × error of eager torch in the same type, floor × the largest true component)."""
    return all(
        f.shape == t.shape and bool(f.isfinite().all()) and error(f, t) <= max(2 * error(e, t), floor * t.abs().max())
        for f, e, t in zip(found, eager, truth, strict=True)
    )


def head_truth(
    hidden: Tensor, head: Tensor, target: Tensor, *, temperature: float, soft_cap: float | None, logit_scale: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies by the formulas, in the type of the inputs."""
    y = logit_scale * (hidden @ head.T)
    if soft_cap is not None:
        y = soft_cap * torch.tanh(y / soft_cap)
    logp = torch.log_softmax(y / temperature, -1)
    return logp[torch.arange(len(target)), target], -(logp.exp() * logp).sum(-1)
