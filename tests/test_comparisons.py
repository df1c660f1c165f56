"""The comparisons of tests/support themselves: what they let pass, and what they say."""

from __future__ import annotations

import re

import pytest
import torch

from rlvr.plan.predict import PlanRow
from support.plans import assert_at_most, assert_bytes, assert_row
from support.precision import (
    assert_agree,
    assert_close_where,
    assert_gradients,
    assert_relative,
    assert_same_bits,
    bit_difference,
    difference,
    disagreement,
)

ZEROS = torch.zeros(3, 4, dtype=torch.float64)
ROWS = (PlanRow("weights", 300), PlanRow("KV cache", 100))


def with_one(value: float) -> torch.Tensor:
    return ZEROS.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(value, dtype=torch.float64))


def says(text: str) -> pytest.RaisesExc[AssertionError]:
    return pytest.raises(AssertionError, match=re.escape(text))


def test_the_worst_component_is_named() -> None:
    assert_close_where(with_one(0.5), ZEROS, 0.5)
    with says("dH: worst 0.5 at [1, 2] (0.5 against 0), bound 0.1; 1 of 12 components are beyond it"):
        assert_close_where(with_one(0.5), ZEROS, 0.1, case="dH")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_close(value: float) -> None:
    assert "worst inf at [1, 2]" in (difference(with_one(value), ZEROS, 1e9) or "")
    assert difference(ZEROS, with_one(value), 1e9)


def test_with_a_bound_for_each_component_the_worst_is_by_its_own() -> None:
    """0.5 within 1 is right; 0.2 beyond 0.1 is not."""
    found = with_one(0.5)
    found[0, 0] = 0.2
    bound = torch.full_like(found, 0.1)
    bound[1, 2] = 1.0
    assert "worst 0.2 at [0, 0]" in (difference(found, ZEROS, bound) or "")


def test_shapes_and_types_are_compared() -> None:
    assert_close_where(torch.zeros(0), torch.zeros(0), 0.0)
    assert_close_where(ZEROS.float(), ZEROS, 0.0)
    with says("shape (3, 4) against (4, 3)"):
        assert_close_where(ZEROS, ZEROS.T, 1.0)
    with says("type torch.float64 against torch.float32"):
        assert_close_where(ZEROS, ZEROS.float(), 1.0)


def test_gradients_are_compared_by_name() -> None:
    expected = {"a": torch.ones(2), "b": torch.ones(2)}
    assert_gradients(expected, expected, 0.0)
    assert_same_bits(expected, expected)
    wrong = expected | {"b": torch.tensor([1.0, 1.5])}
    with says("b: ‖Δ‖/‖g‖ 0.35, bound 0.1; worst 0.5 at [1] (1.5 against 1)"):
        assert_gradients(wrong, expected, 0.1)
    with says("b: worst 0.5 at [1]"):
        assert_same_bits(wrong, expected)
    with says("missing ['b'], not expected []"):
        assert_gradients({"a": torch.ones(2)}, expected, 0.1)
    assert bit_difference(expected, expected) is None
    assert (bit_difference(wrong, expected) or "").startswith("b: worst 0.5 at [1]")
    with says("8 rows: worst 0.5 at [1]"):
        assert_same_bits(wrong["b"], expected["b"], case="8 rows")
    with says("type torch.float32 against torch.float64"):
        assert_same_bits(torch.ones(2), torch.ones(2).double())
    with pytest.raises(AssertionError):
        assert_relative(torch.tensor([float("nan")]), torch.ones(1), 1.0)


def test_a_result_may_be_twice_as_far_off_as_eager_torch() -> None:
    truth, eager = [ZEROS + 1], [ZEROS + 1.01]
    assert_agree([ZEROS + 1.0199], eager, truth, floor=0.0, names=("logp",))
    assert_agree([ZEROS + 1.04], eager, truth, floor=0.05, names=("logp",))
    message = disagreement([ZEROS + 1.03], eager, truth, floor=0.0, names=("logp",))
    assert message is not None and message.startswith("logp: worst 0.03 at [0, 0] (1.03 against 1), bound 0.02")


def test_the_row_of_a_plan_is_named() -> None:
    assert_bytes("update", 104, 100, within=0.05)
    assert_row(ROWS, "KV cache", 100)
    with says("KV cache: planned 100 bytes, measured 80 bytes, +25.00%, allowed ±0.00%"):
        assert_row(ROWS, "KV cache", 80)
    with says("75.0%  weights"):
        assert_bytes("update", 400, 500, within=0.05, rows=ROWS)
    with says("no row 'logits' among"):
        assert_row(ROWS, "logits", 1)
    with says("planned 400 bytes, 0.000 GiB, +100.00% of the limit"):
        assert_at_most("update", 400, 200, rows=ROWS)
