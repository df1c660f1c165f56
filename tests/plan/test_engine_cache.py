"""What a rollout engine may take for its cache, on cards of several sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.plan.cards import GIB, card_of_size
from rlvr.plan.planner import Plan, engine_cache_bytes, plan
from rlvr.plan.settings import PlanSettings
from rlvr.plan.shapes import all_shapes, find_shape
from support.plans import assert_at_most, assert_too_much

SHAPE = find_shape("Qwen2.5-1.5B")
ONE = 1152 * 28_672  # 1,100 tokens in blocks of 128: 28 layers, keys and values, 2 heads of 128, 2 bytes


def planned(vram_gib: float, *, is_cuda: bool = True, has_fp8_cache: bool = False) -> Plan:
    settings = PlanSettings(
        method="lora", quantization="nf4", rank=16, weight_bytes=2, optimizer="adamw", completions=8,
        prompt_tokens=100, completion_tokens=1000, has_reference=False, engine="vllm", recompute="tiles",
        is_cuda=is_cuda, host_bytes=None,
        completions_per_step=8, shares_weights=True, has_fp8_cache=has_fp8_cache, kept_share=0.0, states_on_host=None,
    )  # fmt: skip
    return plan(SHAPE, settings, card_of_size(vram_gib), all_shapes())


@given(vram_gib=st.floats(3.0, 80.0), rows=st.integers(1, 4096), has_fp8_cache=st.booleans())
def test_room_for_all_rows_or_what_the_rollout_leaves(vram_gib: float, rows: int, has_fp8_cache: bool) -> None:
    made = planned(vram_gib, has_fp8_cache=has_fp8_cache)
    found = engine_cache_bytes(made, rows=rows)
    one = ONE // 2 if has_fp8_cache else ONE
    assert one <= found <= rows * one
    if made.fits and found > one:  # the planned cache makes way for this one
        (row,) = (row for row in made.prediction.phases["rollout"] if row.name.startswith("KV cache"))
        needs = made.prediction.device_bytes("rollout") - row.amount_bytes + found
        assert_at_most("rollout with this cache", needs, made.card.memory_bytes, rows=made.prediction.phases["rollout"])


def test_a_large_card_holds_them_all_and_a_small_one_fewer() -> None:
    assert engine_cache_bytes(planned(80.0), rows=256) == 256 * ONE
    assert engine_cache_bytes(planned(6.0), rows=256) < 256 * ONE


@pytest.mark.parametrize("gib", [16.0, 64.0])
def test_of_a_hosts_memory_it_takes_a_quarter_at_most(gib: float) -> None:
    assert engine_cache_bytes(planned(gib, is_cuda=False), rows=100_000) == gib / 4 * GIB


def test_a_plan_that_does_not_fit_still_gives_one_sequence() -> None:
    made = planned(1.0)
    assert_too_much(made, made.prediction.peak_phase)
    assert engine_cache_bytes(made, rows=64) == ONE
