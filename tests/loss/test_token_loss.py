"""The loss against its formulas: value and gradient in float64."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import exp, log
from typing import Any, get_args

import pytest
import torch

from rlvr.loss import sampler_correction, token_loss
from rlvr.types import Correction, LossSpec, LossType, Totals
from support.oracle import Row, corrections, loss_and_gradient, ratios
from support.precision import difference

LOSS_TYPES = get_args(LossType)
TOLERANCE = 1e-12
LENGTHS = (40, 48, 1, 7, 48, 26, 12, 37)
SEQUENCE_LOG_RATIOS = [log(w) for w in (0.6, 0.7, 0.95, 1.05, 1.4, 1.6, 2.2, 2.6)]  # by row; A > 0 in the even ones


def make_spec(loss_type: str, **values: Any) -> LossSpec:
    default = LossSpec(
        loss_type=loss_type,  # type: ignore[arg-type]
        epsilon=0.2,
        epsilon_high=2.0 if loss_type == "cispo" else 0.28,
        delta=None,
        beta=0.0,
        kl_unbiased=True,
        importance_correction="off",
        importance_min=None,
        importance_max=3.0,
        entropy_bonus=0.0,
        max_completion_tokens=48,
        temperature=1.0,
    )
    return replace(default, **values)


def make_rows(
    loss_type: str = "grpo", *, moved: float = 0.5, lengths: tuple[int, ...] = LENGTHS, spread: float = 1.0
) -> list[Row]:
    """Both signs of the advantage; log ratios of standard deviation `moved` (the clip is at -0.22 and 0.25).

    For gspo the mean of each row is moved to SEQUENCE_LOG_RATIOS times `spread`.
    """
    rng = random.Random(5)
    rows = []
    for i, length in enumerate(lengths):
        old = [-rng.uniform(0.05, 4.0) for _ in range(length)]
        shift = [rng.gauss(0.0, moved) for _ in old]
        if loss_type == "gspo":
            centre = spread * SEQUENCE_LOG_RATIOS[i] - sum(shift) / length
            shift = [value + centre for value in shift]
        logp = [a + b for a, b in zip(old, shift, strict=True)]
        reference = [value + rng.gauss(0.0, 0.3) for value in logp]
        advantage = (-1.0 if i % 2 else 1.0) * rng.uniform(0.2, 2.0)
        sampled = [value + rng.gauss(0.0, 0.5) for value in old]
        rows.append(Row(logp, old, reference, advantage, sampled))
    return rows


def computed(rows: list[Row], spec: LossSpec, totals: Totals) -> tuple[float, list[float]]:
    """Value and gradient of the code under test."""
    flat = [(*token, row.advantage, i) for i, row in enumerate(rows) for token in zip(*parts(row), strict=True)]
    logp_T, old_T, reference_T, sampled_T, advantage_T = (
        torch.tensor([token[k] for token in flat], dtype=torch.float64) for k in range(5)
    )
    row_T = torch.tensor([token[5] for token in flat])
    logp_T.requires_grad_()
    loss = token_loss(
        logp_T,
        old_T,
        advantage_T,
        row_T,
        spec=spec,
        totals=totals,
        reference_T=reference_T,
        correction_T=sampler_correction(old_T, sampled_T, row_T, spec=spec),
    )
    (gradient_T,) = torch.autograd.grad(loss, logp_T)
    return loss.item(), gradient_T.tolist()


def parts(row: Row) -> tuple[list[float], ...]:
    return row.logp, row.old, row.reference, row.sampled


def totals_of(rows: list[Row]) -> Totals:
    return Totals(rows=len(rows), tokens=sum(len(row.logp) for row in rows))


def off(found: tuple[float, list[float]], expected: tuple[float, list[float]]) -> str | None:
    """Where the value or a component of the gradient is beyond the tolerance, or None."""
    value, gradient = (
        difference(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), TOLERANCE)
        for a, b in zip(found, expected, strict=True)
    )
    return f"loss: {value}; gradient: {gradient}" if value or gradient else None


def assert_agree(found: tuple[float, list[float]], expected: tuple[float, list[float]]) -> None:
    __tracebackhide__ = True
    if message := off(found, expected):
        raise AssertionError(message)


def truth(rows: list[Row], spec: LossSpec, totals: Totals) -> tuple[float, list[float]]:
    return loss_and_gradient(rows, spec, num_rows=totals.rows, num_tokens=totals.tokens)


@pytest.mark.parametrize("loss_type, share", [("grpo", 0.05), ("gspo", 0.004)])
def test_the_inputs_reach_every_branch(loss_type: str, share: float) -> None:
    """At least this share of the tokens lies in each; of gspo one row, the shortest with one token."""
    spec = make_spec(loss_type, delta=1.7)
    cells = dict.fromkeys(product((-1, 1), ("below", "inside", "above", "beyond delta")), 0)
    for row in make_rows(loss_type):
        for w in ratios(spec, row):
            limits = (1 - spec.epsilon, 1 + spec.epsilon_high, spec.delta or 0.0)
            place = ("below", "inside", "above", "beyond delta")[sum(w > limit for limit in limits)]
            cells[1 if row.advantage > 0 else -1, place] += 1
    assert min(cells.values()) >= share * sum(cells.values()), cells


@pytest.mark.parametrize("beta, kl_unbiased", [(0.0, True), (0.04, True), (0.04, False)])
@pytest.mark.parametrize("delta", [None, 1.7, 1.28])
@pytest.mark.parametrize("epsilon_high", [0.2, 0.28])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_value_and_gradient(
    loss_type: str, epsilon_high: float, delta: float | None, beta: float, kl_unbiased: bool
) -> None:
    cap = epsilon_high * 10 if loss_type == "cispo" else epsilon_high
    spec = make_spec(loss_type, epsilon_high=cap, delta=delta, beta=beta, kl_unbiased=kl_unbiased)
    rows = make_rows(loss_type)
    totals = Totals(rows=len(rows) + 3, tokens=sum(LENGTHS) + 41)  # rows and tokens that were skipped count
    assert_agree(computed(rows, spec, totals), truth(rows, spec, totals))


MODES = [mode for mode in get_args(Correction) if mode != "off"]


@pytest.mark.parametrize("low", [None, 0.6])
@pytest.mark.parametrize("beta, kl_unbiased", [(0.0, True), (0.04, True), (0.04, False)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_value_and_gradient_with_a_correction(
    loss_type: str, mode: str, beta: float, kl_unbiased: bool, low: float | None
) -> None:
    spec = make_spec(
        loss_type,
        beta=beta,
        kl_unbiased=kl_unbiased,
        importance_correction=mode,
        importance_min=low,
        importance_max=1.7,
    )
    rows = make_rows(loss_type)
    weights = [c for row in rows for c in corrections(spec, row)]
    edges = [0.0] if mode.endswith("mask") else [1.7] if low is None else [1.7, low]
    assert all(edge in weights for edge in edges) and any((low or 0) < c < 1.7 for c in weights)
    totals = totals_of(rows)
    expected = truth(rows, spec, totals)
    assert_agree(computed(rows, spec, totals), expected)
    assert off(truth(rows, replace(spec, importance_correction="off"), totals), expected)


@pytest.mark.parametrize(
    "mode, weights",
    [
        ("off", None),
        ("token_truncate", [2.0, 0.5, 3.0, 1.0]),
        ("token_mask", [2.0, 0.5, 0.0, 1.0]),
        ("sequence_truncate", [1.0, 1.0, 3.0, 3.0]),
        ("sequence_mask", [1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_corrections_by_hand(mode: str, weights: list[float] | None) -> None:
    """Two rows of two tokens with old/sampled 2, 1/2 and 4, 1; a row's weight is the product."""
    ratio = torch.tensor([2.0, 0.5, 4.0, 1.0], dtype=torch.float64)
    old_T = torch.full((4,), -1.0, dtype=torch.float64)
    found = sampler_correction(
        old_T, old_T - ratio.log(), torch.tensor([0, 0, 1, 1]), spec=make_spec("grpo", importance_correction=mode)
    )
    assert (found is None) == (weights is None)
    if found is not None:
        assert found.tolist() == pytest.approx(weights, abs=TOLERANCE)


@pytest.mark.parametrize("mode", ["token_mask", "sequence_mask", "token_truncate"])
def test_the_bounds_of_the_correction_are_inside(mode: str) -> None:
    """The engine's number is off by exactly log 1: the weight 1 lies on both bounds."""
    logp_T = torch.tensor([-1.0], dtype=torch.float64)
    spec = make_spec("grpo", importance_correction=mode, importance_min=1.0, importance_max=1.0)
    found = sampler_correction(logp_T, logp_T, torch.tensor([0]), spec=spec)
    assert found is not None and found.tolist() == [1.0]


# Two rows of three tokens, A = +1 and A = -2; w is 1.5, 0.5, 1.0 in the first and 1.5, 0.5, 1.1 in the second.
# epsilon 0.2, epsilon_high 0.3. min(w·A, clip(w)·A) by token:
#   A = +1:  min(1.5, 1.3) = 1.3   min(0.5, 0.8) = 0.5     min(1.0, 1.0) = 1.0     sum 2.8
#   A = -2:  min(-3, -2.6) = -3    min(-1, -1.6) = -1.6    min(-2.2, -2.2) = -2.2  sum -6.8
# Gradient -w·A where the unclipped branch or the inside of the clip is taken:  0, -0.5, -1.0 and 3.0, 0, 2.2.
# cispo with cap 1.2: min(w, 1.2)·A is 1.2, 0.5, 1.0 and -2.4, -1.0, -2.2; logp is -1, -2, -3 in both rows:
#   sum of -min(w, 1.2)·A·logp = (1.2 + 1.0 + 3.0) + (-2.4 - 2.0 - 6.6) = 5.2 - 11.0 = -5.8
# gspo: w is the third root of 1.5·0.5·1.0 and of 1.5·0.5·1.1, inside the clip: -w·A in all three tokens of a row.
# sapo: -4/tau·sigma(tau·(w - 1))·A with tau 1 and 1.05; sigma(0.5) + sigma(-0.5) = 1, so the rows sum to -4·(1 + 1/2)
# and 8/1.05·(1 + sigma(0.105)); gradient -4·s·(1 - s)·w·A.
W = (0.75 ** (1 / 3), 0.825 ** (1 / 3))


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def slope(x: float) -> float:
    return sigma(x) * sigma(-x)


BY_HAND = {
    "grpo": (4.0 / 6, [0, -0.5 / 6, -1 / 6, 3 / 6, 0, 2.2 / 6]),
    "bnpo": (4.0 / 6, [0, -0.5 / 6, -1 / 6, 3 / 6, 0, 2.2 / 6]),
    "dr_grpo": (4.0 / 20, [0, -0.5 / 20, -1 / 20, 3 / 20, 0, 2.2 / 20]),
    "dapo": (4.0 / 6, [0, -0.5 / 6, -1 / 6, 3 / 6, 0, 2.2 / 6]),
    "cispo": (-5.8 / 6, [-1.2 / 6, -0.5 / 6, -1 / 6, 2.4 / 6, 1 / 6, 2.2 / 6]),
    "gspo": ((-W[0] + 2 * W[1]) / 2, [-W[0] / 6] * 3 + [2 * W[1] / 6] * 3),
    "sapo": (
        (-6 + 8 / 1.05 * (1 + sigma(0.105))) / 6,
        [-6 * slope(0.5) / 6, -2 * slope(0.5) / 6, -1 / 6]
        + [8 * slope(1.05 * x) * (1 + x) / 6 for x in (0.5, -0.5, 0.1)],
    ),
}


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_two_rows_of_three_by_hand(loss_type: str) -> None:
    ratios = [[1.5, 0.5, 1.0], [1.5, 0.5, 1.1]]
    logp = [-1.0, -2.0, -3.0]
    rows = [
        Row(logp, [lp - log(w) for lp, w in zip(logp, ratio, strict=True)], logp, advantage, logp)
        for ratio, advantage in zip(ratios, (1.0, -2.0), strict=True)
    ]
    high = 1.2 if loss_type == "cispo" else 0.3
    spec = make_spec(loss_type, epsilon_high=high, max_completion_tokens=10)
    assert_agree(computed(rows, spec, totals_of(rows)), BY_HAND[loss_type])


@pytest.mark.parametrize("delta, gradient", [(None, 8.0), (3.0, 0.0), (4.5, 8.0)])
def test_delta_bounds_the_unclipped_branch(delta: float | None, gradient: float) -> None:
    """One token with A = -2 and w = 4: the loss is -min(-8, -2.6) = 8, with delta 3 it is 6 and flat."""
    rows = [Row([-1.0], [-1.0 - log(4.0)], [-1.0], -2.0, [-1.0])]
    found = computed(rows, make_spec("dapo", delta=delta), Totals(1, 1))
    assert_agree(found, (6.0 if delta == 3.0 else 8.0, [gradient]))


@pytest.mark.parametrize("kl_unbiased, gradient", [(True, 2 * log(2)), (False, 0.5)])
def test_kl_term_by_hand(kl_unbiased: bool, gradient: float) -> None:
    """w = 2 and ref - logp = -log 2: K = 1/2 + log 2 - 1; plain dK = 1 - 1/2, of K·w it is w·(logp - ref)."""
    rows = [Row([-1.0], [-1.0 - log(2)], [-1.0 - log(2)], 0.0, [-1.0])]
    k = log(2) - 0.5
    found = computed(rows, make_spec("dapo", beta=1.0, kl_unbiased=kl_unbiased), Totals(1, 1))
    assert_agree(found, (2 * k if kl_unbiased else k, [gradient]))


def test_the_clip_of_gspo_may_be_as_narrow_as_in_the_paper() -> None:
    rows = make_rows("gspo", spread=1e-3)
    spec = make_spec("gspo", epsilon=3e-4, epsilon_high=4e-4)
    expected = truth(rows, spec, totals_of(rows))
    assert_agree(computed(rows, spec, totals_of(rows)), expected)
    assert 0 in expected[1] and any(expected[1])


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_gradcheck(loss_type: str, beta: float) -> None:
    rows = make_rows(loss_type, moved=0.4, lengths=(4, 1, 3), spread=0.3)
    if loss_type == "cispo":  # only where the cap holds is the detached ratio constant
        rows = [replace(row, old=[lp - 1.0 for lp in row.logp]) for row in rows]
    spec = make_spec(loss_type, delta=1.5, beta=beta)
    old_T, reference_T = (torch.tensor([v for row in rows for v in parts(row)[k]]).double() for k in (1, 2))
    logp_T = torch.tensor([v for row in rows for v in row.logp], dtype=torch.float64, requires_grad=True)
    row_T = torch.tensor([i for i, row in enumerate(rows) for _ in row.logp])
    advantage_T = torch.tensor([row.advantage for row in rows]).double()[row_T]

    def loss(x: torch.Tensor) -> torch.Tensor:
        return token_loss(x, old_T, advantage_T, row_T, spec=spec, totals=Totals(3, 8), reference_T=reference_T)

    assert torch.autograd.gradcheck(loss, logp_T, eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_shares_of_micro_batches_add_up(loss_type: str) -> None:
    rows, spec = make_rows(loss_type), make_spec(loss_type, beta=0.04)
    whole = computed(rows, spec, totals_of(rows))
    for cuts in ([1], [3, 4], list(range(1, len(rows)))):
        pieces = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
        shares = [computed(piece, spec, totals_of(rows)) for piece in pieces]
        assert_agree((sum(value for value, _ in shares), [g for _, gradient in shares for g in gradient]), whole)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_order_of_siblings_does_not_matter(loss_type: str) -> None:
    rows, spec = make_rows(loss_type), make_spec(loss_type, beta=0.04)
    value, gradient = computed(rows, spec, totals_of(rows))
    value_back, gradient_back = computed(rows[::-1], spec, totals_of(rows))
    ends = [sum(LENGTHS[: i + 1]) for i in range(len(LENGTHS))]
    turned = [g for i in reversed(range(len(rows))) for g in gradient[ends[i] - LENGTHS[i] : ends[i]]]
    assert_agree((value_back, gradient_back), (value, turned))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_rows_that_are_left_out_count_in_the_totals_alone(loss_type: str) -> None:
    """A row of advantage 0 may be skipped: same loss, same gradient of the others."""
    rows, spec = make_rows(loss_type), make_spec(loss_type)
    idle = replace(rows[0], advantage=0.0)
    value, gradient = computed([*rows[1:], idle], spec, totals_of(rows))
    assert gradient[-LENGTHS[0] :] == [0.0] * LENGTHS[0]
    assert_agree(computed(rows[1:], spec, totals_of(rows)), (value, gradient[: -LENGTHS[0]]))


class TestWhereThePolicyHasNotMoved:
    """w = 1 everywhere: what docs/algorithms.md says."""

    @staticmethod
    def at(loss_type: str) -> tuple[float, list[float]]:
        rows = [replace(row, old=row.logp) for row in make_rows()]
        high = 5.0 if loss_type == "cispo" else 0.28
        return computed(rows, make_spec(loss_type, epsilon_high=high), totals_of(rows))

    def test_grpo_is_minus_the_mean_advantage_and_its_gradient_is_not_zero(self) -> None:
        value, gradient = self.at("grpo")
        advantages = [row.advantage for row in make_rows()]
        assert value == pytest.approx(-sum(advantages) / len(advantages), abs=TOLERANCE)
        assert max(map(abs, gradient)) > 0.01

    def test_grpo_is_zero_when_the_advantages_sum_to_zero_but_its_gradient_is_not(self) -> None:
        """... and the losses that weigh tokens are not zero, since lengths differ inside the group."""
        rows = [replace(row, old=row.logp, advantage=1.0 - 2.0 * (i % 2)) for i, row in enumerate(make_rows())]
        losses = {
            kind: computed(rows, make_spec(kind), totals_of(rows)) for kind in ("grpo", "bnpo", "dr_grpo", "dapo")
        }
        assert abs(losses["grpo"][0]) < TOLERANCE
        assert min(abs(losses[kind][0]) for kind in ("bnpo", "dr_grpo", "dapo")) > 0.01
        assert all(max(map(abs, gradient)) > 0.001 for _, gradient in losses.values())

    def test_the_gradient_of_cispo_is_dapos(self) -> None:
        assert_agree((0.0, self.at("cispo")[1]), (0.0, self.at("dapo")[1]))

    @pytest.mark.parametrize("loss_type", ["gspo", "sapo"])
    def test_the_gradient_is_grpos(self, loss_type: str) -> None:
        assert_agree((0.0, self.at(loss_type)[1]), (0.0, self.at("grpo")[1]))

    def test_the_value_of_gspo_is_grpos_and_that_of_sapo_weighs_the_signs(self) -> None:
        assert self.at("gspo")[0] == pytest.approx(self.at("grpo")[0], abs=TOLERANCE)
        halves = [2 * row.advantage / (1.0 if row.advantage > 0 else 1.05) for row in make_rows()]
        assert self.at("sapo")[0] == pytest.approx(-sum(halves) / len(halves), abs=TOLERANCE)

    def test_the_whole_gradient_passes_at_the_edges_of_the_clip(self) -> None:
        """w exactly 1 with an empty clip range below: clamp passes the gradient at equality."""
        rows = [Row([-1.0], [-1.0], [-1.0], sign, [-1.0]) for sign in (1.0, -1.0)]
        spec = make_spec("dapo", epsilon=0.0, epsilon_high=0.0, delta=1.0)
        assert_agree(computed(rows, spec, totals_of(rows)), (0.0, [-0.5, 0.5]))


def with_one_token_too_many(rows: list[Row]) -> list[Row]:
    return [Row([*r.logp, -1.0], [*r.old, -1.0], [*r.reference, -1.0], r.advantage, [*r.sampled, -1.0]) for r in rows]


def mask_ignored(rows: list[Row], spec: LossSpec, totals: Totals) -> tuple[float, list[float]]:
    """A token after the end of each row is trained on; the gradient of the true tokens is what is left of it."""
    value, gradient = computed(with_one_token_too_many(rows), spec, totals)
    ends = [sum(len(row.logp) + 1 for row in rows[: i + 1]) - 1 for i in range(len(rows))]
    return value, [g for i, g in enumerate(gradient) if i not in ends]


def scaled(factor: float) -> Callable[..., tuple[float, list[float]]]:
    def wrong(rows: list[Row], spec: LossSpec, totals: Totals) -> tuple[float, list[float]]:
        value, gradient = computed(rows, spec, totals)
        return value, [factor * g for g in gradient]

    return wrong


MUTANTS: dict[str, Callable[..., tuple[float, list[float]]]] = {
    "no gradient": scaled(0.0),
    "gradient 2 % too large": scaled(1.02),
    "gradient of the other sign": scaled(-1.0),
    "clip_high := clip_low": lambda rows, spec, totals: computed(rows, replace(spec, epsilon_high=0.2), totals),
    "mask ignored": mask_ignored,
}


@pytest.mark.parametrize(
    "loss_type, mutant",
    [pair for pair in product(LOSS_TYPES, MUTANTS) if pair != ("sapo", "clip_high := clip_low")],  # sapo has no clip
)
def test_the_comparison_rejects(loss_type: str, mutant: str) -> None:
    rows, spec = make_rows(loss_type), make_spec(loss_type)
    expected = truth(rows, spec, totals_of(rows))
    assert_agree(computed(rows, spec, totals_of(rows)), expected)
    assert off(MUTANTS[mutant](rows, spec, totals_of(rows)), expected)
