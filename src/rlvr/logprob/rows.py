"""Rows of logits in plain torch: what the softmax makes of them, and the way back, in at most three buffers."""
# C rows of a chunk · V vocabulary

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitMap:
    """Between product and softmax: y = cap·tanh(scale·x/cap)/temperature, without a cap scale·x/temperature."""

    temperature: float = 1.0
    soft_cap: float | None = None
    scale: float = 1.0

    def at(self, temperature: float) -> LogitMap:
        """The same model at another temperature."""
        return replace(self, temperature=temperature)

    def apply_(self, x: Tensor) -> Tensor:
        """y in the place of x."""
        if self.scale != 1.0:
            x.mul_(self.scale)
        if self.soft_cap is not None:
            x.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return x if self.temperature == 1.0 else x.div_(self.temperature)


class SoftmaxState(NamedTuple):
    """What the gradient needs of the rows: e = exp(y − max), its sum, and where asked y − max, max and entropy."""

    power_CV: Tensor
    total_C: Tensor
    shifted_CV: Tensor | None
    max_C1: Tensor
    entropy_C: Tensor


def statistics(
    logits_CV: Tensor, target_C: Tensor, logit_map: LogitMap, *, entropy_gradient: bool
) -> tuple[Tensor, Tensor, SoftmaxState]:
    """Log-probability of each target, entropy, and the state for `gradient`; the logits are overwritten."""
    shifted_CV = logit_map.apply_(logits_CV)
    max_C1 = shifted_CV.amax(-1, keepdim=True)
    shifted_CV.sub_(max_C1)
    power_CV = shifted_CV.exp()
    total_C = power_CV.sum(-1)
    log_total_C = total_C.log()
    logp_C = shifted_CV.gather(1, target_C[:, None])[:, 0] - log_total_C
    keeps_shifted = entropy_gradient or logit_map.soft_cap is not None
    moment_CV = shifted_CV * power_CV if keeps_shifted else shifted_CV.mul_(power_CV)
    entropy_C = log_total_C - moment_CV.sum(-1) / total_C
    state = SoftmaxState(power_CV, total_C, shifted_CV if keeps_shifted else None, max_C1, entropy_C)
    return logp_C, entropy_C, state


def gradient(
    state: SoftmaxState,
    target_C: Tensor,
    dlogp_C: Tensor,
    dentropy_C: Tensor | None,
    logit_map: LogitMap,
    dtype: torch.dtype,
) -> Tensor:
    """Σ dlogp·∂logp/∂x + dentropy·∂H/∂x by each logit x, in `dtype`; the state is overwritten. [C, V]

    By y it is dlogp·(1[target] − p) − dentropy·p·(log p + H), and ∂y/∂x = (1 − tanh²)·scale/temperature.
    """
    slope = logit_map.scale / logit_map.temperature
    dlogp_C = dlogp_C * slope
    cap_slope_CV = _cap_slope(state, logit_map)
    gradient_CV, weight_C = state.power_CV, -1.0 / state.total_C
    if dentropy_C is None:
        gradient_CV.mul_((dlogp_C * weight_C)[:, None])
    else:
        assert state.shifted_CV is not None
        rest_C = state.entropy_C - state.total_C.log()
        factor_CV = state.shifted_CV.add_(rest_C[:, None])
        factor_CV.mul_((dentropy_C * slope)[:, None]).add_(dlogp_C[:, None])
        gradient_CV.mul_(weight_C[:, None]).mul_(factor_CV)
    gradient_CV.scatter_add_(1, target_C[:, None], dlogp_C[:, None])
    if cap_slope_CV is not None:
        gradient_CV.mul_(cap_slope_CV)
    return gradient_CV.to(dtype)


def _cap_slope(state: SoftmaxState, logit_map: LogitMap) -> Tensor | None:
    """1 − tanh², from y = cap·tanh/temperature."""
    if logit_map.soft_cap is None:
        return None
    assert state.shifted_CV is not None
    tanh_CV = (state.shifted_CV + state.max_C1).mul_(logit_map.temperature / logit_map.soft_cap)
    return tanh_CV.square_().neg_().add_(1.0)
