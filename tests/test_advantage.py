"""Advantages against plain Python, and what must hold for any rewards."""

from __future__ import annotations

import math
from statistics import mean, stdev
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlvr.advantage import group_advantages, has_signal, total_rewards

NAN = float("nan")
Scale = Literal["group", "batch", "none"]
SCALES: tuple[Scale, ...] = ("group", "batch", "none")


def advantages(rewards: list[list[float]], scale: Scale = "group") -> list[list[float]]:
    found: list[list[float]] = group_advantages(torch.tensor(rewards, dtype=torch.float64), scale=scale).tolist()
    return found


def oracle(rewards: list[list[float]], scale: Scale) -> list[list[float]]:
    everything = [r for group in rewards for r in group if not math.isnan(r)]
    result = []
    for group in rewards:
        scorable = [r for r in group if not math.isnan(r)]
        if len(scorable) < 2 or max(scorable) == min(scorable):
            result.append([0.0] * len(group))
            continue
        divisor = {"group": stdev(scorable), "batch": stdev(everything), "none": 1 - 1e-4}[scale] + 1e-4
        result.append([0.0 if math.isnan(r) else (r - mean(scorable)) / divisor for r in group])
    return result


def close(found: list[list[float]], expected: list[list[float]]) -> bool:
    return all(a == pytest.approx(b, rel=1e-9, abs=1e-9) for a, b in zip(found, expected, strict=True))


def test_z_score_by_hand() -> None:
    """Rewards 1, 2, 3, 6: mean 3, std with ddof 1 the root of 14/3."""
    std = math.sqrt(14 / 3) + 1e-4
    assert advantages([[1, 2, 3, 6]]) == [pytest.approx([-2 / std, -1 / std, 0, 3 / std], abs=1e-15)]


def test_batch_scale_divides_every_group_by_one_number() -> None:
    """Rewards 0, 2 and 4, 4 and 1, 5: all six have mean 8/3 and variance (62 - 6·64/9)/5 = 58/15."""
    std = math.sqrt(58 / 15) + 1e-4
    found = advantages([[0, 2], [4, 4], [1, 5]], "batch")
    assert close(found, [[-1 / std, 1 / std], [0, 0], [-2 / std, 2 / std]])


def test_no_scale_leaves_the_difference_to_the_mean() -> None:
    assert advantages([[0, 2], [4, 4], [1, 5]], "none") == [[-1, 1], [0, 0], [-2, 2]]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reward", [0.1 + 0.2, 1 / 3, 13.5, -1e9 / 7, 5e-324])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_equal_rewards_are_exactly_zero(scale: Scale, reward: float, size: int) -> None:
    other = [float(i) for i in range(size)]
    assert advantages([[reward] * size, other], scale)[0] == [0.0] * size
    assert has_signal(torch.tensor([[reward] * size, other], dtype=torch.float64)).tolist() == [False, True]


@pytest.mark.parametrize("scale", SCALES)
def test_a_reward_that_could_not_be_scored_is_left_out_of_every_mean_and_std(scale: Scale) -> None:
    rewards = [[1, NAN, 4, 2], [NAN, NAN, 3, 9], [0, 2, 2, 7]]
    found = advantages(rewards, scale)
    assert found[0][1] == found[1][0] == found[1][1] == 0.0
    assert close(found, oracle(rewards, scale))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("group", [[NAN, NAN, NAN], [5.0, NAN, NAN], [5.0, NAN, 5.0]])
def test_fewer_than_two_different_scorable_rewards_teach_nothing(scale: Scale, group: list[float]) -> None:
    assert advantages([group, [0.0, 1.0, 2.0]], scale)[0] == [0.0, 0.0, 0.0]
    assert has_signal(torch.tensor([group])).tolist() == [False]


def test_total_rewards_weigh_the_functions() -> None:
    points_PGK = torch.tensor([[[1.0, 10.0, 100.0], [2.0, 0.0, -1.0]]], dtype=torch.float64)
    assert total_rewards(points_PGK, (1.0, 0.5, -2.0)).tolist() == [[1 + 5 - 200, 2 + 2]]


def test_what_could_not_be_scored_counts_only_where_its_function_has_weight() -> None:
    points_PGK = torch.tensor([[[1.0, NAN], [2.0, 3.0]]])
    assert total_rewards(points_PGK, (1.0, 0.0)).tolist() == [[1.0, 2.0]]
    assert total_rewards(points_PGK, (1.0, 1.0)).isnan().tolist() == [[True, False]]


# Rewards as rubrics give them: multiples of a quarter, so that offsets and sums are exact.
reward_groups = st.integers(2, 6).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(-60, 60).map(lambda n: n / 4), min_size=size, max_size=size), min_size=1, max_size=5
    )
)
scales = st.sampled_from(SCALES)


@given(reward_groups, scales)
def test_any_rewards_give_the_definition(rewards: list[list[float]], scale: Scale) -> None:
    assert close(advantages(rewards, scale), oracle(rewards, scale))


@given(reward_groups, scales)
def test_advantages_of_a_group_sum_to_zero(rewards: list[list[float]], scale: Scale) -> None:
    assert max(abs(sum(group)) for group in advantages(rewards, scale)) < 1e-9


@given(reward_groups, scales, st.integers(-100, 100))
def test_an_offset_common_to_all_does_not_matter(rewards: list[list[float]], scale: Scale, offset: int) -> None:
    assert close(advantages([[r + offset for r in group] for group in rewards], scale), advantages(rewards, scale))


@given(reward_groups, st.sampled_from(["group", "none"]), st.integers(-100, 100))
def test_an_offset_of_one_group_does_not_matter_unless_the_batch_scales(
    rewards: list[list[float]], scale: Scale, offset: int
) -> None:
    moved = [[r + offset for r in rewards[0]], *rewards[1:]]
    assert close(advantages(moved, scale), advantages(rewards, scale))


@given(reward_groups, scales, st.randoms(use_true_random=False))
def test_siblings_may_come_in_any_order(rewards: list[list[float]], scale: Scale, rng: object) -> None:
    order = list(range(len(rewards[0])))
    rng.shuffle(order)  # type: ignore[attr-defined]
    turned = advantages([[group[i] for i in order] for group in rewards], scale)
    assert close(turned, [[group[i] for i in order] for group in advantages(rewards, scale)])


@given(reward_groups, st.integers(2, 50))
def test_the_scale_of_the_rewards_passes_only_undivided(rewards: list[list[float]], factor: int) -> None:
    larger = [[factor * r for r in group] for group in rewards]
    assert close(advantages(larger, "none"), [[factor * a for a in group] for group in advantages(rewards, "none")])
    for group, scaled in zip(advantages(rewards), advantages(larger), strict=True):
        if any(group):  # the standard deviation is at least 1/4/sqrt(6) here, and 1e-4 beside it
            assert scaled == pytest.approx(group, rel=2e-3)


@given(reward_groups, scales)
def test_a_higher_reward_never_has_a_lower_advantage(rewards: list[list[float]], scale: Scale) -> None:
    for group, result in zip(rewards, advantages(rewards, scale), strict=True):
        ordered = [a for _, a in sorted(zip(group, result, strict=True))]
        assert ordered == sorted(ordered)


@given(reward_groups)
def test_signal_is_where_rewards_differ(rewards: list[list[float]]) -> None:
    signal: Tensor = has_signal(torch.tensor(rewards))
    assert signal.tolist() == [len(set(group)) > 1 for group in rewards]
