"""Group-relative advantages: the reward of a completion compared with those of its group.

A reward function returns a number, None or NaN. None means that it does not apply: it contributes 0 and is left out of
that function's statistics. NaN means that scoring failed. NaN in a function of weight other than 0 makes the completion
unscorable: it is left out of every mean, std and count, and its advantage is 0.
"""
# P prompts · G completions per prompt · K reward functions

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rlvr.types import AdvantageMethod

EPSILON = 1e-4


def reward_tensors(points: Sequence[Sequence[Sequence[float | None]]]) -> tuple[Tensor, Tensor]:
    """`points_PGK` with 0 where a function does not apply, and the mask `applies_PGK` of where it does."""
    numbers = [[[0.0 if value is None else value for value in row] for row in group] for group in points]
    applies = [[[value is not None for value in row] for row in group] for group in points]
    return torch.tensor(numbers, dtype=torch.float64), torch.tensor(applies)


def total_rewards(points_PGK: Tensor, weights: tuple[float, ...]) -> Tensor:
    """r = Σ_k weight_k · R_k, [P, G]; NaN where the completion is unscorable."""
    used_columns = [k for k, weight in enumerate(weights) if weight != 0.0]
    weight_K = torch.tensor([weights[k] for k in used_columns], dtype=points_PGK.dtype)
    return (points_PGK[..., used_columns] * weight_K).sum(-1)


def advantages(
    points_PGK: Tensor,
    applies_PGK: Tensor,
    weights: tuple[float, ...],
    *,
    method: AdvantageMethod,
    scale: Literal["group", "batch", "none"],
) -> Tensor:
    """A by `method`, [P, G]; `scale` belongs to sum_then_normalize alone.

    Groups with fewer than two scorable completions, or whose completions are all worth the same, are exactly 0.
    """
    reward_PG = total_rewards(points_PGK, weights)
    if method == "sum_then_normalize":
        return group_advantages(reward_PG, scale=scale)
    if method == "rloo":
        return leave_one_out(reward_PG)
    return normalize_then_sum(points_PGK, applies_PGK & ~reward_PG.isnan()[..., None], weights)


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
        advantage_PG = centred_PG / (_std(reward_PG[scorable_PG]) + EPSILON)
    else:
        advantage_PG = centred_PG
    return torch.where(scorable_PG & _differ(reward_PG)[:, None], advantage_PG, torch.zeros_like(advantage_PG))


def leave_one_out(reward_PG: Tensor) -> Tensor:
    """A_i = r_i − mean of the other scorable rewards of the group = n/(n − 1)·(r_i − mean_group). [P, G].

    RLOO (arXiv 2402.14740, section 3.2).
    """
    count_P1 = (~reward_PG.isnan()).sum(-1, keepdim=True)
    return group_advantages(reward_PG, scale="none") * count_P1 / (count_P1 - 1).clamp(min=1)


def normalize_then_sum(points_PGK: Tensor, known_PGK: Tensor, weights: tuple[float, ...]) -> Tensor:
    """r = Σ_k weight_k·z_k with z the z-score of function k inside the group, A = (r − mean)/(std + 1e-4). [P, G].

    mean and std over all scorable completions, ddof = 1 (GDPO, arXiv 2601.05242). `known_PGK` marks the numbers that
    count: the function applies and the completion is scorable.
    """
    unscorable_PG = total_rewards(points_PGK, weights).isnan()
    z_PGK = torch.stack(
        [
            group_advantages(points_PG.masked_fill(~known_PG, math.nan), scale="group")
            for points_PG, known_PG in zip(points_PGK.unbind(-1), known_PGK.unbind(-1), strict=True)
        ],
        dim=-1,
    )
    reward_PG = total_rewards(z_PGK, weights).masked_fill(unscorable_PG, math.nan)
    advantage_PG = (reward_PG - reward_PG.nanmean()) / (_std(reward_PG[~unscorable_PG]) + EPSILON)
    return torch.where(~unscorable_PG & _differ(reward_PG)[:, None], advantage_PG, torch.zeros_like(advantage_PG))


def has_signal(advantage_PG: Tensor) -> Tensor:
    """Groups that teach something: those whose advantages are not all 0. [P] bool."""
    return (advantage_PG != 0).any(-1)


def _differ(reward_PG: Tensor) -> Tensor:
    """Groups with at least two scorable rewards that are not all equal. [P] bool."""
    scorable_PG = ~reward_PG.isnan()
    low_P = reward_PG.nan_to_num(nan=float("inf")).amin(-1)
    high_P = reward_PG.masked_fill(~scorable_PG, float("-inf")).amax(-1)
    return (scorable_PG.sum(-1) >= 2) & (high_P > low_P)


def _std(values: Tensor) -> Tensor:
    return values.std(correction=1) if values.numel() > 1 else values.new_zeros(())
