"""The work of an update by hand for Llama-3.1-8B, and how seconds follow from it; the simulation counts the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from make.memory import QLORA
from rlvr.plan.cards import CARDS, Speed, find_card
from rlvr.plan.settings import Choice, PlanSettings
from rlvr.plan.shapes import find_shape
from rlvr.plan.work import (
    DISPATCH_SECONDS,
    KERNEL_SECONDS,
    REACHED,
    Work,
    estimate,
    planned_work,
    rollout_seconds,
    update_estimate,
)

LLAMA_8B = find_shape("Llama-3.1-8B", Path(__file__).parents[2] / "presets/shapes")
LINEAR, ADAPTER = 6_979_321_856, 83_886_080  # weights of the linear layers, and of an adapter of rank 32 on them
HEAD = 128_256 * 4096
ALONE = Choice(
    sequences=1, share_prompts=True, offload=False, tile_rows=2048, head_rows=1024, kv_sequences=8, states_on_host=False
)  # fmt: skip
LONG = replace(QLORA, prompt_tokens=0, completion_tokens=20_480)
BEHIND = replace(QLORA, prompt_tokens=512, completion_tokens=1536)


def work(settings: PlanSettings, choice: Choice) -> dict[str, Work]:
    return planned_work(LLAMA_8B, settings, choice, is_ampere=True)


def test_flops_of_eight_sequences() -> None:
    tokens, phases = 8 * 20_480, work(LONG, ALONE)
    attention = 8 * 32 * 4 * 20_480**2 / 2 * 4096
    assert phases["forward"].product_flops == 2 * tokens * (LINEAR + ADAPTER)
    assert phases["backward"].product_flops == 2 * tokens * (2 * LINEAR + 3 * ADAPTER)
    assert phases["head"].product_flops == 4 * tokens * HEAD
    assert phases["forward"].attention_flops == attention
    assert phases["backward"].attention_flops == 3.5 * attention


def test_without_recomputing_backward_is_backward_alone() -> None:
    once, again = work(replace(LONG, recompute="none"), ALONE)["backward"], work(LONG, ALONE)["backward"]
    assert again.product_flops - once.product_flops == 2 * 8 * 20_480 * (LINEAR + ADAPTER)
    assert once.attention_flops / again.attention_flops == pytest.approx(2.5 / 3.5)


def test_a_prompt_once_or_with_each_micro_batch() -> None:
    once, each = (work(BEHIND, replace(ALONE, share_prompts=share))["forward"] for share in (True, False))
    assert once.product_flops == 2 * (512 + 8 * 1536) * (LINEAR + ADAPTER)
    assert each.product_flops == 2 * 8 * (512 + 1536) * (LINEAR + ADAPTER)
    assert each.attention_flops - once.attention_flops == 7 * 32 * 4 * 512**2 / 2 * 4096


def test_completions_that_do_not_divide_a_group() -> None:
    """Five and three of eight, in two passes as four and four are."""
    five, four = (work(BEHIND, replace(ALONE, sequences=sequences)) for sequences in (5, 4))
    for name in ("forward", "backward"):
        assert five[name].product_flops == four[name].product_flops
        assert five[name].unpacked_bytes == four[name].unpacked_bytes


def test_weights_are_unpacked_once_for_the_tiles_of_a_pass() -> None:
    tiled, whole = (work(LONG, replace(ALONE, tile_rows=rows))["backward"] for rows in (2048, 32_768))
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    assert tiled.unpacked_bytes == pytest.approx(8 * 2.64 * (LINEAR + attention))
    assert whole.unpacked_bytes == pytest.approx(8 * 2.64 * 2 * LINEAR)


def test_what_goes_over_the_link() -> None:
    phases = work(LONG, replace(ALONE, offload=True, states_on_host=True))
    inputs, states = 8 * 20_480 * 4096 * 2 * 32, 2 * (1 + 4 / 256) * ADAPTER
    assert phases["forward"].to_host_bytes == inputs and phases["forward"].from_host_bytes == 0
    assert phases["backward"].from_host_bytes == inputs * 31 / 32  # the last layer's is on the card
    assert (phases["optimizer"].to_host_bytes, phases["optimizer"].from_host_bytes) == (states, states)
    assert all(not x.to_host_bytes and not x.from_host_bytes for x in work(LONG, ALONE).values())


@pytest.mark.parametrize("settings", [LONG, BEHIND])
def test_attention_that_is_kept_goes_backward_alone(settings: PlanSettings) -> None:
    """Output and log-sum-exp go over the link where inputs do: 8,192 and 128 bytes a token and layer."""
    again, kept = (work(settings, replace(ALONE, offload=True, keep_attention=keep)) for keep in (False, True))
    assert kept["forward"].attention_flops == again["forward"].attention_flops
    assert kept["backward"].attention_flops == pytest.approx(again["backward"].attention_flops * 2.5 / 3.5)
    assert kept["forward"].to_host_bytes / again["forward"].to_host_bytes == (8192 + 8192 + 128) / 8192
    assert kept["backward"].launches - again["backward"].launches < 8 * 32 * 100
    on_card = [work(settings, replace(ALONE, keep_attention=keep))["backward"] for keep in (False, True)]
    assert on_card[1].other_bytes <= on_card[0].other_bytes and not on_card[1].from_host_bytes


def test_windows_leave_less_to_attend_to() -> None:
    gemma = find_shape("Gemma-3-1B", Path(__file__).parents[2] / "presets/shapes")
    assert gemma.windowed_layers == 22  # of 26: every sixth sees all
    phases = planned_work(gemma, LONG, ALONE, is_ampere=True)
    pairs = 22 * (20_480 * 512 - 512**2 / 2) + 4 * 20_480**2 / 2
    assert phases["forward"].attention_flops == pytest.approx(8 * 4 * pairs * 1024)


def test_a_phase_takes_what_its_kernels_take_or_its_launches_or_the_link() -> None:
    speed = Speed(1 / REACHED.flops, 1 / REACHED.memory_bytes, 1 / REACHED.link_bytes)  # reached: 1 of each
    on_card = Work(product_flops=3.0, product_bytes=2.0, attention_flops=5.0, unpacked_bytes=7.0, other_bytes=11.0)
    assert estimate({"a": on_card}, speed).seconds == pytest.approx(26.0)
    assert estimate({"a": on_card, "b": on_card}, speed).seconds == pytest.approx(52.0)
    assert estimate({"a": replace(on_card, product_bytes=4.0)}, speed).seconds == pytest.approx(27.0)
    launched = estimate({"a": replace(on_card, launches=100)}, speed)
    assert launched.seconds == pytest.approx(26.0 + 100 * KERNEL_SECONDS)
    assert estimate({"a": Work(launches=100)}, speed).seconds == pytest.approx(100 * DISPATCH_SECONDS)
    hidden, bound = (estimate({"a": replace(on_card, to_host_bytes=n)}, speed).seconds for n in (4.0, 40.0))
    assert hidden == pytest.approx(26.0 + 4.0) and bound == pytest.approx(26.0 + 40.0)  # it passes through memory
    assert estimate({"a": Work(to_host_bytes=4.0, from_host_bytes=3.0)}, speed).seconds == pytest.approx(7.0)


def test_every_saving_has_its_price() -> None:
    for settings in (LONG, BEHIND):
        for card in (find_card(name) for name in ("H100", "A100 80GB", "4090", "T4")):
            base = update_estimate(LLAMA_8B, settings, ALONE, card).seconds
            kept = update_estimate(LLAMA_8B, replace(settings, recompute="none"), ALONE, card).seconds
            assert kept < base
            for change in ({"offload": True}, {"states_on_host": True}, {"head_rows": 256}):
                assert base < update_estimate(LLAMA_8B, settings, replace(ALONE, **change), card).seconds < 1.05 * base
            each = update_estimate(LLAMA_8B, settings, replace(ALONE, share_prompts=False), card).seconds
            assert each == base if settings is LONG else each > base


def test_fewer_completions_at_once_read_the_weights_more_often() -> None:
    card = find_card("H100")
    one, all_at_once = (rollout_seconds(LLAMA_8B, LONG, replace(ALONE, kv_sequences=n), card) for n in (1, 8))
    assert one == pytest.approx(8 * all_at_once)


def test_cards_have_speeds_that_can_be() -> None:
    assert all(20e12 < card.speed.flops < 1e15 and card.speed.memory_bytes < 5e12 for card in CARDS)
    assert find_card("H100").speed == Speed(989.4e12, 3350e9, 64e9)
    slow, fast = (update_estimate(LLAMA_8B, LONG, ALONE, find_card(name)).seconds for name in ("4090", "H100"))
    assert slow > 3 * fast
