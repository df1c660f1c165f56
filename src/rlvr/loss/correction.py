"""The correction for an engine whose log-probabilities differ from the trainer's: an importance weight."""
# T trained tokens of a micro-batch

from __future__ import annotations

import torch
from torch import Tensor

from rlvr.loss.reference import row_sum
from rlvr.types import LossSpec


def sampler_correction(old_T: Tensor, sampler_T: Tensor, row_T: Tensor, *, spec: LossSpec) -> Tensor | None:
    """Weight c of each token's policy term, [T]; None when the correction is off.

    With d = old − sampler, the trainer's and the engine's log-probability under the same weights: c = e^d in the token
    modes, e^Σd over the row in the sequence modes. `truncate` clamps c to [importance_min, importance_max], `mask`
    sets what lies outside to 0; both bounds are inside.
    """
    if spec.importance_correction == "off":
        return None
    level, _, bound = spec.importance_correction.partition("_")
    log_weight_T = old_T - sampler_T
    if level == "sequence":
        log_weight_T = row_sum(log_weight_T, row_T)[row_T]
    weight_T = log_weight_T.exp()
    bounded_T = weight_T.clamp(spec.importance_min, spec.importance_max)
    return bounded_T if bound == "truncate" else torch.where(bounded_T == weight_T, weight_T, 0.0)


def dropped(correction_T: Tensor, row_T: Tensor) -> tuple[Tensor, Tensor]:
    """How many tokens have the weight 0, and how many rows no other token."""
    is_left_T = (correction_T != 0).to(correction_T.dtype)
    return (is_left_T == 0).sum(), (row_sum(is_left_T, row_T) == 0).sum()
