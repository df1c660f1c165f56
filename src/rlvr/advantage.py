"""Group-relative advantages: a reward becomes its z-score inside its group."""
# P prompts · G completions per prompt · K reward functions

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-4


def total_rewards(points_PGK: Tensor, weights: tuple[float, ...]) -> Tensor:
    """r = Σ_k weight_k · R_k, [P, G].

    NaN marks a completion that could not be scored by our own fault; it counts only where the weight is not 0.
    """
    used = [k for k, weight in enumerate(weights) if weight != 0.0]
    weight_K = torch.tensor([weights[k] for k in used], dtype=points_PGK.dtype)
    return (points_PGK[..., used] * weight_K).sum(-1)


def group_advantages(reward_PG: Tensor, *, scale: Literal["group", "batch", "none"]) -> Tensor:
    """A = r − mean_group(r), divided by std + 1e-4 of the group, of the batch, or not at all. [P, G].

    std has ddof = 1 (DeepSeekMath, arXiv 2402.03300, section 4.1.2; `none` is Dr. GRPO, 2503.20783). NaN rewards
    are left out of every mean and std and get 0, as do groups with fewer than two scorable rewards. A group whose
    rewards are all equal is set to exactly 0: a rounding error divided by 1e-4 would not be.
    """
    scorable_PG = ~reward_PG.isnan()
    count_P1 = scorable_PG.sum(-1, keepdim=True)
    filled_PG = reward_PG.nan_to_num(0.0)
    mean_P1 = filled_PG.sum(-1, keepdim=True) / count_P1.clamp(min=1)
    centred_PG = (filled_PG - mean_P1) * scorable_PG
    if scale == "group":
        std_P1 = (centred_PG.square().sum(-1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
        advantage_PG = centred_PG / (std_P1 + EPSILON)
    elif scale == "batch":
        scorable = reward_PG[scorable_PG]
        std = scorable.std(correction=1) if scorable.numel() > 1 else scorable.new_zeros(())
        advantage_PG = centred_PG / (std + EPSILON)
    else:
        advantage_PG = centred_PG
    has_signal_P1 = has_signal(reward_PG)[:, None]
    return torch.where(scorable_PG & has_signal_P1, advantage_PG, torch.zeros_like(advantage_PG))


def has_signal(reward_PG: Tensor) -> Tensor:
    """Which groups teach something: at least two scorable rewards that are not all equal. [P] bool."""
    scorable_PG = ~reward_PG.isnan()
    low_P = reward_PG.nan_to_num(nan=float("inf")).amin(-1)
    high_P = reward_PG.masked_fill(~scorable_PG, float("-inf")).amax(-1)
    return (scorable_PG.sum(-1) >= 2) & (high_P > low_P)
