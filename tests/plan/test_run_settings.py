"""A run's own settings held against a card: what fits is taken as it is, and what is advised fits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rlvr.plan.cards import GIB, Card, find_card
from rlvr.plan.planner import Plan, engine_cache_bytes
from rlvr.plan.predict import weight_rows
from rlvr.plan.run_settings import KEYS, RunSettings, choice_of, plan_run, plan_sampling_run
from rlvr.plan.settings import PlanSettings
from rlvr.plan.shapes import all_shapes, find_shape
from rlvr.types import UserError
from support.plans import assert_bytes, assert_fits

FOLDER = Path(__file__).parents[2] / "presets" / "shapes"
LLAMA_3B, LLAMA_8B = (find_shape(name, FOLDER) for name in ("Llama-3.2-3B", "Llama-3.1-8B"))
QLORA = PlanSettings(
    method="lora", quantization="nf4", rank=16, weight_bytes=2, optimizer="adamw", completions=8,
    completions_per_step=64, prompt_tokens=200, completion_tokens=800, has_reference=False, engine="native",
    shares_weights=True, has_fp8_cache=False, recompute="tiles", is_cuda=True, host_bytes=None,
    kept_share=0.0, states_on_host=None,
)  # fmt: skip
OWN = RunSettings(
    tokens_per_micro_batch=4096, share_prompts=False, tile_rows=None, offload=False, keep_attention=False,
    head_rows=500, max_rows=64, minibatch=64,
)  # fmt: skip


def card(gib: float) -> Card:
    return Card("the card", round(gib * GIB), True)


def test_what_fits_is_taken_as_it_is() -> None:
    made = plan_run(LLAMA_3B, QLORA, OWN, find_card("H100"), ())
    assert made.fits and made.settings.recompute == "none"
    assert (made.choice.kv_sequences, made.choice.head_rows, made.choice.offload) == (64, 500, False)
    assert made.choice.sequences == 4 and made.tokens_per_micro_batch == 200 + 4 * 800
    tiled = plan_run(LLAMA_3B, QLORA, replace(OWN, tile_rows=1024, offload=True), find_card("H100"), ())
    assert tiled.settings.recompute == "tiles" and tiled.choice.offload
    assert tiled.prediction.training_bytes < made.prediction.training_bytes / 2


@pytest.mark.parametrize(
    ("tokens", "minibatch", "sequences"),
    [(100, 64, 1), (1000, 64, 1), (1800, 64, 2), (6600, 64, 8), (8000, 64, 9), (13_200, 64, 16), (13_200, 12, 12)],
)
def test_completions_of_a_micro_batch(tokens: int, minibatch: int, sequences: int) -> None:
    """A group is 6,600 tokens long: 200 of a prompt and 8 times 800."""
    own = replace(OWN, tokens_per_micro_batch=tokens, minibatch=minibatch)
    assert choice_of(own, QLORA).sequences == sequences


@pytest.mark.parametrize(("max_rows", "at_once"), [(1, 8), (8, 8), (23, 16), (64, 64), (512, 64)])
def test_the_native_sampler_takes_whole_groups(max_rows: int, at_once: int) -> None:
    own = replace(OWN, max_rows=max_rows)
    assert choice_of(own, QLORA).kv_sequences == at_once
    assert choice_of(own, replace(QLORA, engine="vllm")).kv_sequences == min(max_rows, 64)


def test_a_smaller_micro_batch_comes_before_tiles() -> None:
    with pytest.raises(UserError, match=r"memory.tokens_per_micro_batch 4096 → 2048(?!.*tile_rows)"):
        plan_run(LLAMA_3B, QLORA, replace(OWN, max_rows=8), card(10.5), ())
    with pytest.raises(UserError, match=r"memory.tile_rows null → \d+"):
        plan_run(LLAMA_3B, QLORA, replace(OWN, max_rows=8), card(5.0), ())


def test_attention_is_computed_again_before_anything_smaller() -> None:
    kept = replace(OWN, tile_rows=512, keep_attention=True, max_rows=8)
    needs = plan_run(LLAMA_3B, QLORA, kept, card(40.0), ()).prediction.peak_bytes / GIB
    with pytest.raises(UserError, match=r"that fit \([^)]*\): memory.keep_attention on → off$"):
        plan_run(LLAMA_3B, QLORA, kept, card(needs - 0.1), ())


def advised(own: RunSettings, message: str) -> RunSettings:
    """`own` with the values that the message names."""
    names = {key: name for name, key in KEYS.items()}
    found = re.findall(r"([a-z_.]+) \S+ → (\w+)", message)
    values: dict[str, Any] = {"on": True, "off": False, "null": None}
    changes: dict[str, Any] = {names[key]: values[value] if value in values else int(value) for key, value in found}
    assert changes
    return replace(own, **changes)


@hypothesis_settings(max_examples=60)
@given(
    gib=st.floats(3.0, 60.0),
    tokens=st.sampled_from([500, 4096, 30_000]),
    tile_rows=st.sampled_from([None, 512, 8192]),
    max_rows=st.sampled_from([4, 32, 512]),
    is_cuda=st.booleans(),
    engine=st.sampled_from(["native", "vllm"]),
    keep_attention=st.booleans(),
)
def test_what_is_advised_fits_and_what_is_refused_has_no_way(
    gib: float, tokens: int, tile_rows: int | None, max_rows: int, is_cuda: bool, engine: Any, keep_attention: bool
) -> None:
    own = replace(
        OWN, tokens_per_micro_batch=tokens, tile_rows=tile_rows, max_rows=max_rows,
        keep_attention=keep_attention and tile_rows is not None,
    )  # fmt: skip
    settings = replace(QLORA, is_cuda=is_cuda, engine=engine)
    try:
        made = plan_run(LLAMA_3B, settings, own, card(gib), ())
    except UserError as error:
        changed = advised(own, str(error))
        assert_fits(plan_run(LLAMA_3B, settings, changed, card(gib), ()))
        return
    if not made.fits:
        least = replace(
            own, tokens_per_micro_batch=1, tile_rows=min(tile_rows or 1024, 1024), offload=True, head_rows=256,
            keep_attention=False, max_rows=8,
        )  # fmt: skip
        assert not plan_run(LLAMA_3B, settings, least, card(gib), ()).fits


def test_where_nothing_fits_it_says_what_would_help() -> None:
    made = plan_run(LLAMA_8B, replace(QLORA, quantization="none"), OWN, card(12.0), all_shapes(FOLDER))
    assert not made.fits
    assert any("nf4" in remedy for remedy in made.remedies) and any("smaller model" in line for line in made.remedies)


def test_a_group_that_is_too_much_for_the_native_sampler() -> None:
    long = replace(QLORA, completion_tokens=16_000)
    own = replace(OWN, tile_rows=1024, offload=True, head_rows=256)
    made = plan_run(LLAMA_8B, long, own, card(16.0), ())
    assert made.prediction.peak_phase == "rollout"
    assert made.remedies[0] == "fewer completions for each prompt: 4 fit (grpo.completions_per_prompt)"


def test_sampling_alone_has_no_states_and_no_backward() -> None:
    full = replace(QLORA, method="full", quantization="none", completions=1)
    made = plan_sampling_run(LLAMA_3B, full, 16, card(10.0), ())
    assert made.fits and set(made.prediction.phases) == {"load", "rollout"} and made.prediction.host_bytes == 0
    with pytest.raises(UserError, match=r"the rollout phase needs .* GiB.*rollout.max_rows 64 → \d+"):
        plan_sampling_run(LLAMA_3B, full, 64, card(10.0), ())
    assert not plan_sampling_run(LLAMA_3B, full, 64, card(5.0), ()).fits


class TestCacheOfAnEngine:
    def made(self, gib: float, **changes: Any) -> Plan:
        own = replace(OWN, tile_rows=1024, offload=True)
        return plan_run(LLAMA_8B, replace(QLORA, engine="vllm", **changes), own, card(gib), ())

    def cache_bytes(self, made: Plan) -> int:
        return engine_cache_bytes(made, rows=64)

    def test_it_is_what_the_rollout_leaves_where_there_is_no_room_for_all(self) -> None:
        made = self.made(12)
        found = self.cache_bytes(made)
        assert found < self.cache_bytes(self.made(80)) == 64 * 1024 * 131_072
        planned = made.choice.kv_sequences // 8 * (200 + 8 * 800) * 131_072
        rest = made.prediction.device_bytes("rollout") - planned
        assert_bytes("rollout", found + rest, made.card.memory_bytes, rows=made.prediction.phases["rollout"])

    def test_a_second_copy_of_the_weights_is_paid_from_it(self) -> None:
        shared, copied = self.made(16), self.made(16, shares_weights=False)
        weights = sum(row.amount_bytes for row in weight_rows(LLAMA_8B, QLORA)[:2])
        assert weights == pytest.approx(5.31 * GIB, rel=0.01)
        more = copied.prediction.allocated_bytes("load") - shared.prediction.allocated_bytes("load")
        assert_bytes("load", more, weights, rows=copied.prediction.phases["load"])
        assert self.cache_bytes(shared) > self.cache_bytes(copied)
