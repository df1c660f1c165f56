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

from rlvr.advantage import advantages as advantages_by_method
from rlvr.advantage import group_advantages, has_signal, reward_tensors, total_rewards
from rlvr.types import AdvantageMethod
from support.precision import assert_close_where

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


def assert_close(found: list[list[float]], expected: list[list[float]]) -> None:
    """Group by group, within 1e-9 of the number, or of 1 for a smaller one."""
    __tracebackhide__ = True
    for g, (group, right) in enumerate(zip(found, expected, strict=True)):
        truth = torch.tensor(right, dtype=torch.float64)
        bound = 1e-9 * truth.abs().clamp(min=1.0)
        assert_close_where(torch.tensor(group, dtype=torch.float64), truth, bound, case=f"group {g}")


def test_z_score_by_hand() -> None:
    """Rewards 1, 2, 3, 6: mean 3, std with ddof 1 the root of 14/3."""
    std = math.sqrt(14 / 3) + 1e-4
    assert advantages([[1, 2, 3, 6]]) == [pytest.approx([-2 / std, -1 / std, 0, 3 / std], abs=1e-15)]


def test_batch_scale_divides_every_group_by_one_number() -> None:
    """Rewards 0, 2 and 4, 4 and 1, 5: all six have mean 8/3 and variance (62 - 6·64/9)/5 = 58/15."""
    std = math.sqrt(58 / 15) + 1e-4
    found = advantages([[0, 2], [4, 4], [1, 5]], "batch")
    assert_close(found, [[-1 / std, 1 / std], [0, 0], [-2 / std, 2 / std]])


def test_no_scale_leaves_the_difference_to_the_mean() -> None:
    assert advantages([[0, 2], [4, 4], [1, 5]], "none") == [[-1, 1], [0, 0], [-2, 2]]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reward", [0.1 + 0.2, 1 / 3, 13.5, -1e9 / 7, 5e-324])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_equal_rewards_are_exactly_zero(scale: Scale, reward: float, size: int) -> None:
    other = [float(i) for i in range(size)]
    found = advantages([[reward] * size, other], scale)
    assert found[0] == [0.0] * size
    assert has_signal(torch.tensor(found)).tolist() == [False, True]


@pytest.mark.parametrize("scale", SCALES)
def test_a_reward_that_could_not_be_scored_is_left_out_of_every_mean_and_std(scale: Scale) -> None:
    rewards = [[1.0, NAN, 4.0, 2.0], [NAN, NAN, 3.0, 9.0], [0.0, 2.0, 2.0, 7.0]]
    found = advantages(rewards, scale)
    assert found[0][1] == found[1][0] == found[1][1] == 0.0
    assert_close(found, oracle(rewards, scale))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("group", [[NAN, NAN, NAN], [5.0, NAN, NAN], [5.0, NAN, 5.0]])
def test_fewer_than_two_different_scorable_rewards_teach_nothing(scale: Scale, group: list[float]) -> None:
    assert advantages([group, [0.0, 1.0, 2.0]], scale)[0] == [0.0, 0.0, 0.0]


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
    assert_close(advantages(rewards, scale), oracle(rewards, scale))


@given(reward_groups, scales)
def test_advantages_of_a_group_sum_to_zero(rewards: list[list[float]], scale: Scale) -> None:
    assert max(abs(sum(group)) for group in advantages(rewards, scale)) < 1e-9


@given(reward_groups, scales, st.integers(-100, 100))
def test_an_offset_common_to_all_does_not_matter(rewards: list[list[float]], scale: Scale, offset: int) -> None:
    assert_close(advantages([[r + offset for r in group] for group in rewards], scale), advantages(rewards, scale))


@given(reward_groups, st.sampled_from(["group", "none"]), st.integers(-100, 100))
def test_an_offset_of_one_group_does_not_matter_unless_the_batch_scales(
    rewards: list[list[float]], scale: Scale, offset: int
) -> None:
    moved = [[r + offset for r in rewards[0]], *rewards[1:]]
    assert_close(advantages(moved, scale), advantages(rewards, scale))


@given(reward_groups, scales, st.randoms(use_true_random=False))
def test_siblings_may_come_in_any_order(rewards: list[list[float]], scale: Scale, rng: object) -> None:
    order = list(range(len(rewards[0])))
    rng.shuffle(order)  # type: ignore[attr-defined]
    turned = advantages([[group[i] for i in order] for group in rewards], scale)
    assert_close(turned, [[group[i] for i in order] for group in advantages(rewards, scale)])


@given(reward_groups, st.integers(2, 50))
def test_the_scale_of_the_rewards_passes_only_undivided(rewards: list[list[float]], factor: int) -> None:
    larger = [[factor * r for r in group] for group in rewards]
    assert_close(advantages(larger, "none"), [[factor * a for a in group] for group in advantages(rewards, "none")])
    for group, scaled in zip(advantages(rewards), advantages(larger), strict=True):
        if any(group):  # the standard deviation is at least 1/4/sqrt(6) here, and 1e-4 is added to it
            assert scaled == pytest.approx(group, rel=2e-3)


@given(reward_groups, scales)
def test_a_higher_reward_never_has_a_lower_advantage(rewards: list[list[float]], scale: Scale) -> None:
    for group, result in zip(rewards, advantages(rewards, scale), strict=True):
        ordered = [a for _, a in sorted(zip(group, result, strict=True))]
        assert ordered == sorted(ordered)


@given(reward_groups, scales)
def test_signal_is_where_rewards_differ(rewards: list[list[float]], scale: Scale) -> None:
    signal: Tensor = has_signal(torch.tensor(advantages(rewards, scale), dtype=torch.float64))
    assert signal.tolist() == [len(set(group)) > 1 for group in rewards]


Points = list[list[list[float | None]]]
METHODS: tuple[AdvantageMethod, ...] = ("sum_then_normalize", "normalize_then_sum", "rloo")


def by_method(points: Points, weights: tuple[float, ...], method: AdvantageMethod) -> list[list[float]]:
    points_PGK, applies_PGK = reward_tensors(points)
    found = advantages_by_method(points_PGK, applies_PGK, weights, method=method, scale="group")
    assert found.dtype == torch.float64
    result: list[list[float]] = found.tolist()
    return result


def z_scores(values: list[float | None]) -> list[float]:
    """0 for None, and everywhere when fewer than two numbers are left or all are equal."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or max(known) == min(known):
        return [0.0] * len(values)
    return [0.0 if value is None else (value - mean(known)) / (stdev(known) + 1e-4) for value in values]


def method_oracle(points: Points, weights: tuple[float, ...], method: AdvantageMethod) -> list[list[float]]:
    used = [k for k, weight in enumerate(weights) if weight]
    fit = [[not any(math.isnan(row[k] or 0.0) for k in used) for row in group] for group in points]
    columns = []
    for k in used:
        column = [[row[k] if fit[p][g] else None for g, row in enumerate(group)] for p, group in enumerate(points)]
        columns.append([z_scores(group) for group in column] if method == "normalize_then_sum" else column)
    totals = [[NAN] * len(group) for group in points]
    for p, g in ((p, g) for p, group in enumerate(points) for g in range(len(group)) if fit[p][g]):
        totals[p][g] = sum(weights[k] * (column[p][g] or 0.0) for k, column in zip(used, columns, strict=True))
    everything = [r for group in totals for r in group if not math.isnan(r)]
    result = []
    for group in totals:
        known = [r for r in group if not math.isnan(r)]
        if len(known) < 2 or max(known) == min(known):
            result.append([0.0] * len(group))
        elif method == "sum_then_normalize":
            result.append([0.0 if math.isnan(r) else (r - mean(known)) / (stdev(known) + 1e-4) for r in group])
        elif method == "normalize_then_sum":
            divisor = stdev(everything) + 1e-4
            result.append([0.0 if math.isnan(r) else (r - mean(everything)) / divisor for r in group])
        else:
            result.append([0.0 if math.isnan(r) else r - mean(_without(known, r)) for r in group])
    return result


def _without(values: list[float], value: float) -> list[float]:
    i = values.index(value)
    return values[:i] + values[i + 1 :]


def test_rloo_by_hand() -> None:
    """Rewards 1, 2, 6: the others' means are 4, 3.5 and 1.5."""
    assert by_method([[[1.0], [2.0], [6.0]]], (1.0,), "rloo") == [pytest.approx([-3.0, -1.5, 4.5])]


def test_normalize_then_sum_by_hand() -> None:
    """Two functions of very different scale weigh the same: z is ±1/√2 in both, so rows are worth √2, 0 and 0, -√2.

    The second group teaches nothing by its first function. Batch: mean 0, variance (2 + 2 + 1/2 + 1/2)/5 = 1.
    """
    points: Points = [[[1.0, 100.0], [0.0, 0.0]], [[3.0, 1.0], [3.0, 0.0]], [[2.0, 7.0], [2.0, 7.0]]]
    root = math.sqrt(2)
    expected = [[root, -root], [root / 2, -root / 2], [0.0, 0.0]]
    found = by_method(points, (1.0, 1.0), "normalize_then_sum")
    assert all(a == pytest.approx(b, rel=1e-3) for a, b in zip(found, expected, strict=True))
    assert found[2] == [0.0, 0.0]


def test_where_a_function_does_not_apply_it_counts_0_and_is_left_out_of_its_statistics() -> None:
    """The second function judges two of three; its z-scores are those of these two."""
    points: Points = [[[1.0, 4.0], [1.0, None], [1.0, 2.0]]]
    found = by_method(points, (1.0, 1.0), "normalize_then_sum")
    assert found == [pytest.approx([1.0, 0.0, -1.0], rel=1e-3)]
    assert by_method(points, (1.0, 1.0), "rloo") == [pytest.approx([5 - 2, 1 - 4, 3 - 3])]
    assert by_method(points, (1.0, 0.0), "rloo") == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("method", METHODS)
def test_what_could_not_be_scored_is_left_out_of_every_function(method: AdvantageMethod) -> None:
    """... also of the functions that did score it, as if it had not been sampled."""
    rest: Points = [[[1.0, 0.1], [0.0, 0.7], [0.5, 0.2]], [[0.3, 0.9], [1.0, 0.4], [0.2, 0.8]]]
    with_fault: Points = [[rest[0][0], [50.0, NAN], *rest[0][1:]], [*rest[1], [NAN, None]]]
    found, clean = by_method(with_fault, (1.0, 0.5), method), by_method(rest, (1.0, 0.5), method)
    assert found[0][1] == found[1][3] == 0.0
    assert_close([[found[0][0], *found[0][2:]], found[1][:3]], clean)
    weightless: Points = [[[row[0], NAN] for row in group] for group in rest]
    assert_close(by_method(weightless, (1.0, 0.0), method), by_method(rest, (1.0, 0.0), method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("row", [[0.1 + 0.2, 1 / 3], [None, 0.7], [NAN, 1.0]])
def test_equal_completions_are_exactly_zero_by_any_method(method: AdvantageMethod, row: list[float | None]) -> None:
    points: Points = [[row] * 7, [[i / 3, i * i / 7] for i in range(7)]]
    found = torch.tensor(by_method(points, (0.7, 1.3), method))
    assert has_signal(found).tolist() == [False, True]


outcomes = st.integers(-12, 12).map(lambda n: n / 4) | st.sampled_from([None, NAN])
point_tables = st.integers(2, 5).flatmap(
    lambda size: st.lists(
        st.lists(st.lists(outcomes, min_size=3, max_size=3), min_size=size, max_size=size), min_size=1, max_size=4
    )
)


@given(point_tables, st.sampled_from(METHODS))
def test_any_points_give_the_definition(points: Points, method: AdvantageMethod) -> None:
    """Weights that make sums of equal worth unlikely, and one that is 0."""
    weights = (1.0, 0.0, math.sqrt(2))
    found, expected = by_method(points, weights, method), method_oracle(points, weights, method)
    assert all(a == pytest.approx(b, rel=1e-8, abs=1e-8) for a, b in zip(found, expected, strict=True))
