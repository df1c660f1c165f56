"""The planner: the published figures from its formulas, the targets, monotony, and what it chooses and advises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rlvr.attention import layout, padded, pieces
from rlvr.plan import working_set
from rlvr.plan.cards import CARDS, GIB, Card, card_of_size, find_card
from rlvr.plan.planner import (
    MOST_TOKENS,
    choose,
    cost,
    fits,
    least_bytes,
    longest_context,
    plan,
    update_choices,
    with_context,
)
from rlvr.plan.predict import PHASES, predict, weight_rows
from rlvr.plan.published import (
    COMPLETIONS,
    CONTEXT,
    TABLE,
    ours,
    rule_of_thumb,
    standard_logits_bytes,
    standard_weights_bytes,
)
from rlvr.plan.settings import NF4_BYTES, Choice, PlanSettings, check, input_tokens
from rlvr.plan.shapes import Shape, all_shapes, find_shape
from rlvr.plan.working_set import bytes_per_token
from rlvr.types import UserError
from support.plans import assert_at_most, assert_bytes, assert_fits, assert_row

FOLDER = Path(__file__).parents[2] / "presets" / "shapes"
SHAPES = {shape.name: shape for shape in all_shapes(FOLDER)}
LLAMA_8B = SHAPES["Llama-3.1-8B"]
QLORA = PlanSettings(
    method="lora", quantization="nf4", rank=32, weight_bytes=2, optimizer="adamw_8bit",
    completions=8, completions_per_step=8, prompt_tokens=512, completion_tokens=1536, has_reference=False,
    engine="native", shares_weights=True,
    has_fp8_cache=False, recompute="tiles", is_cuda=True, host_bytes=None, kept_share=0.0,
    states_on_host=None,
)  # fmt: skip
THRIFTY = Choice(
    sequences=1, share_prompts=True, offload=True, tile_rows=4096, head_rows=1024, kv_sequences=1, states_on_host=False
)  # fmt: skip


def at(context: int, **changes: object) -> PlanSettings:
    return with_context(replace(QLORA, **changes), context)  # type: ignore[arg-type]


def considered(settings: PlanSettings) -> list[Choice]:
    """Every choice that there is between, rollouts included."""
    return [
        replace(choice, kv_sequences=kv_sequences)
        for states_on_host in (False, True)
        for choice in update_choices(settings, states_on_host, (8, 4, 2, 1))
        if choice.sequences == 1 or input_tokens(settings, choice) <= MOST_TOKENS
        for kv_sequences in (8, 4, 2, 1)
    ]


def amounts(shape: Shape, settings: PlanSettings, choice: Choice, phase: str) -> dict[str, float]:
    """GiB by row."""
    return {row.name: row.amount_bytes / GIB for row in predict(shape, settings, choice).phases[phase]}


def worked_out(shape: Shape, settings: PlanSettings, choice: Choice, phase: str, expected: float) -> None:
    """The sum of a phase's rows."""
    rows = predict(shape, settings, choice).phases[phase]
    assert_bytes(phase, sum(row.amount_bytes for row in rows), expected, rows=rows)


class TestPublished:
    def test_logits_of_the_standard_implementation(self) -> None:
        logits = standard_logits_bytes(LLAMA_8B, completions=COMPLETIONS, context=CONTEXT)
        assert round(logits / GIB, 1) == 78.3
        assert round(logits / 8 / GIB, 1) == 9.8

    def test_weights_and_cache(self) -> None:
        assert round(standard_weights_bytes(LLAMA_8B) / 1e9, 2) == 16.06
        assert round(standard_weights_bytes(LLAMA_8B) / GIB, 2) == 14.96
        assert CONTEXT * LLAMA_8B.kv_bytes_per_token(2) == 2.5 * GIB

    def test_its_rows_add_up_to_its_total(self) -> None:
        *rows, total = TABLE
        assert sum(row.standard for row in rows) == pytest.approx(total.standard, abs=0.05)
        assert sum(row.best for row in rows) == pytest.approx(total.best, abs=0.05)

    def test_ours_in_both_accountings(self) -> None:
        together, _ = ours(LLAMA_8B, QLORA, sequences=8, kv_sequences=1)
        alone, prediction = ours(LLAMA_8B, QLORA, sequences=1, kv_sequences=8)
        assert together[-1] / GIB < 54.33 and together[0] / GIB < 42 and together[1] / GIB < 9.8
        assert together[3] == 2.5 * GIB and alone[3] == 20 * GIB
        assert prediction.training_bytes == alone[0]
        assert_bytes("training", alone[0], 8.13 * GIB, within=0.01, rows=prediction.phases["backward"])

    def test_the_rule(self) -> None:
        assert "8.0 GB for QLoRA" in rule_of_thumb(LLAMA_8B) and "32.1 GB for 16-bit LoRA" in rule_of_thumb(LLAMA_8B)


class TestRows:
    """The figures of "where the bytes are" for Llama-3.1-8B and one sequence of 20K tokens, computed by hand."""

    def test_weights_in_four_bits(self) -> None:
        assert pytest.approx(0.515869, abs=1e-6) == NF4_BYTES
        linear, rest, adapter = (row.amount_bytes / GIB for row in weight_rows(LLAMA_8B, QLORA))
        assert (round(linear, 2), round(rest, 2), round(adapter, 4)) == (3.35, 1.96, 0.3125)

    @pytest.mark.parametrize(("optimizer", "gib"), [("adamw", 1.25), ("adamw_8bit", 0.78)])
    def test_adapter_gradients_and_states(self, optimizer: str, gib: float) -> None:
        rows = amounts(LLAMA_8B, at(20480, optimizer=optimizer), THRIFTY, "optimizer")
        ours = rows["adapter, rank 32"] + rows["gradients"] + rows[f"optimizer states, {optimizer}"]
        assert round(ours, 2) == gib

    def test_four_bit_weights_are_there_in_16_first_on_a_cpu_alone(self) -> None:
        largest = 2 * 4096 * 14336
        on_card, on_cpu = (replace(at(2048), is_cuda=is_cuda) for is_cuda in (True, False))
        weights = sum(row.amount_bytes for row in weight_rows(LLAMA_8B, on_card))
        worked_out(LLAMA_8B, on_card, THRIFTY, "load", weights + 2 * largest)
        worked_out(LLAMA_8B, replace(on_cpu, engine="vllm"), THRIFTY, "load", weights + 2 * largest)
        worked_out(LLAMA_8B, on_cpu, THRIFTY, "load", 2 * 8_030_261_248 + 2 * largest)

    def test_layer_inputs_on_the_card_or_on_the_host(self) -> None:
        on_card = predict(LLAMA_8B, at(20480), replace(THRIFTY, offload=False))
        on_host = predict(LLAMA_8B, at(20480), THRIFTY)
        assert_row(on_card.phases["backward"], "layer inputs", 5 * GIB)
        assert on_card.host_bytes == 0
        assert_row(on_host.host, "layer inputs", 5 * GIB)

    def test_a_layer_goes_backward_in_75_kb_a_token(self) -> None:
        small_tiles = replace(THRIFTY, tile_rows=2048)
        tiled = bytes_per_token(LLAMA_8B, at(20480, prompt_tokens=0), small_tiles)
        whole = bytes_per_token(LLAMA_8B, at(20480, prompt_tokens=0, recompute="layer"), small_tiles)
        assert tiled == pytest.approx(75_400, rel=0.005)
        assert whole > 2 * tiled

    def test_a_width_that_is_not_whole_blocks_stays_in_16_bits(self) -> None:
        odd = replace(SHAPES["SmolLM2-135M"], intermediate_size=1500)
        even = replace(odd, intermediate_size=1536)
        assert weight_rows(odd, QLORA)[0].amount_bytes > 1.3 * weight_rows(even, QLORA)[0].amount_bytes

    def test_full_training_keeps_no_adapter_and_trains_every_weight(self) -> None:
        full = at(2048, method="full", quantization="none", optimizer="adamw")
        of_ids = 80 * (512 + 8 * 1536)
        worked_out(LLAMA_8B, full, THRIFTY, "optimizer", (2 + 2 + 8) * 8_030_261_248 + of_ids)

    def test_a_reference_is_one_more_of_what_is_trained(self) -> None:
        for settings in (at(2048), at(2048, method="full", quantization="none")):
            with_reference = predict(LLAMA_8B, replace(settings, has_reference=True), THRIFTY)
            without = predict(LLAMA_8B, settings, THRIFTY)
            assert with_reference.allocated_bytes("load") == without.allocated_bytes("load")
            more = with_reference.allocated_bytes("rollout") - without.allocated_bytes("rollout")
            weights = 4 * 83_886_080 if settings.method == "lora" else 2 * 8_030_261_248
            assert_bytes("reference", more, weights, rows=with_reference.phases["rollout"])

    def test_eight_completions_share_their_prompt(self) -> None:
        choice, fp8 = replace(THRIFTY, kv_sequences=8), at(2048, engine="vllm", has_fp8_cache=True)
        whole = (512 + 8 * 1536) * 131_072  # bytes of a token: 32 layers, keys and values, 8 heads of 128, 2 bytes
        assert_row(predict(LLAMA_8B, at(2048), choice).phases["rollout"], "KV cache, 8 at once", whole)
        assert_row(predict(LLAMA_8B, fp8, choice).phases["rollout"], "KV cache in fp8, 8 at once", whole / 2)


class TestTargets:
    """What the project wants to need, as predicted; a GPU has to confirm it."""

    def test_one_8b_sequence_of_20k(self) -> None:
        prediction = predict(LLAMA_8B, at(20480), THRIFTY)
        phase = max(("head", "backward", "optimizer"), key=prediction.allocated_bytes)
        assert_at_most("training", prediction.training_bytes, 9.0 * GIB, rows=prediction.phases[phase])
        backward = prediction.allocated_bytes("backward") + 2.5 * GIB
        assert_at_most("backward and a KV cache", backward, 12.5 * GIB, rows=prediction.phases["backward"])

    def test_131072_tokens_of_an_8b_model_on_80_gb(self) -> None:
        assert longest_context(LLAMA_8B, QLORA, find_card("H100")) == 131_072

    @pytest.mark.parametrize(("name", "gib"), [("Qwen2.5-1.5B", 3.5), ("Phi-4", 13.5)])
    def test_small_cards(self, name: str, gib: float) -> None:
        assert_fits(plan(SHAPES[name], at(2048), card_of_size(gib), ()))
        assert_at_most("the least", least_bytes(SHAPES[name], at(2048)), gib * GIB)

    @pytest.mark.parametrize(
        ("name", "card", "context"),
        [("Llama-3.3-70B", "A6000", 8192), ("Qwen2.5-1.5B", "T4", 8192), ("Qwen2.5-3B", "T4", 8192)],
    )
    def test_runs_that_fit(self, name: str, card: str, context: int) -> None:
        assert_fits(plan(SHAPES[name], at(context), find_card(card), ()))


class TestChoice:
    def test_on_a_large_card_nothing_is_given_up(self) -> None:
        assert choose(LLAMA_8B, at(2048), find_card("H100")) == Choice(
            sequences=8,
            share_prompts=True,
            offload=False,
            tile_rows=4096,
            head_rows=1024,
            kv_sequences=8,
            states_on_host=False,
            keep_attention=True,
        )

    def test_on_smaller_cards_more_is_given_up_and_takes_longer(self) -> None:
        sizes = (*range(300, 90, -6), *range(90, 60, -1))
        choices = [choose(LLAMA_8B, at(2048), card_of_size(tenths / 10)) for tenths in sizes]
        found = [choice for choice in choices if choice is not None]
        seconds = [cost(LLAMA_8B, at(2048), card_of_size(30), choice)[0] for choice in found]
        assert seconds == sorted(seconds) and seconds[-1] > 1.2 * seconds[0]
        for name in vars(THRIFTY):
            assert len({getattr(choice, name) for choice in found}) > 1, name

    def test_states_go_to_the_host_before_a_smaller_rollout(self) -> None:
        moved = 0
        for tenths in range(120, 70, -3):
            card = card_of_size(tenths / 10)
            free, kept = (choose(LLAMA_8B, at(2048, states_on_host=on), card) for on in (None, False))
            assert free is not None
            if free.states_on_host:
                moved += 1
                assert kept is None or cost(LLAMA_8B, at(2048), card, kept) > cost(LLAMA_8B, at(2048), card, free)
            else:
                assert kept == free
        assert moved

    def test_a_host_with_too_little_memory_is_respected(self) -> None:
        card, context = card_of_size(12), 32_768
        assert_fits(plan(LLAMA_8B, at(context), card, ()))
        small_host = at(context, host_bytes=4 * GIB)
        refused = plan(LLAMA_8B, small_host, card, ())
        assert not refused.fits
        assert any("more host memory: 8." in remedy for remedy in refused.remedies)

    def test_a_context_ends_at_the_models_own(self) -> None:
        assert longest_context(SHAPES["SmolLM2-135M"], QLORA, find_card("H100")) == 8192

    @pytest.mark.parametrize("name", SHAPES)
    def test_the_longest_context_fits_and_the_next_does_not(self, name: str) -> None:
        for card in (find_card("3060"), find_card("A6000")):
            tokens = longest_context(SHAPES[name], QLORA, card)
            if tokens:
                assert_fits(plan(SHAPES[name], at(tokens), card, ()))
            if tokens < SHAPES[name].max_position_embeddings:
                assert not plan(SHAPES[name], at(tokens + 256), card, ()).fits


class TestRemedies:
    def test_they_come_in_the_order_in_which_they_hurt(self) -> None:
        made = plan(LLAMA_8B, at(65_536, quantization="none"), card_of_size(12), tuple(SHAPES.values()))
        assert [remedy.split(":")[0] for remedy in made.remedies] == [
            "a LoRA adapter on 4-bit weights (nf4), 8-bit optimizer", "a shorter context", "a smaller model",
        ]  # fmt: skip
        assert "still too much" in made.remedies[0]
        assert made.remedies[2] == "a smaller model: Llama-3.2-3B fits, with nf4"

    def test_each_does_what_it_says(self) -> None:
        card = find_card("A6000")
        seventy = SHAPES["Llama-3.3-70B"]
        made = plan(seventy, at(32_768), card, tuple(SHAPES.values()))
        assert made.remedies[0] == f"a shorter context: {longest_context(seventy, QLORA, card):,} tokens fit"
        assert_fits(plan(SHAPES["DeepSeek-R1-0528-Qwen3-8B"], at(32_768), card, ()))

    def test_a_smaller_rank(self) -> None:
        needs = least_bytes(SHAPES["Llama-3.3-70B"], at(512, rank=64))
        made = plan(SHAPES["Llama-3.3-70B"], at(512, rank=64), card_of_size(needs / GIB - 1), ())
        assert "a smaller rank: 16 fits" in made.remedies

    def test_nothing_helps(self) -> None:
        assert plan(SHAPES["SmolLM2-135M"], at(2048), card_of_size(0.3), tuple(SHAPES.values())).remedies == ()


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    context=st.integers(64, 8192),
    completions=st.integers(1, 16),
    rank=st.sampled_from([4, 16, 64]),
    optimizer=st.sampled_from(["adamw", "adamw_8bit"]),
    quantization=st.sampled_from(["none", "nf4"]),
    sequences=st.integers(1, 8),
)
def test_more_of_anything_never_needs_less(
    name: str, context: int, completions: int, rank: int, optimizer: str, quantization: str, sequences: int
) -> None:
    shape = SHAPES[name]
    settings = at(context, completions=completions, rank=rank, optimizer=optimizer, quantization=quantization)
    settings = replace(settings, completions_per_step=16)  # more than a micro-batch: all of them meet gradients
    choice = replace(THRIFTY, sequences=sequences, share_prompts=False)
    prediction = predict(shape, settings, choice)
    is_tiled = input_tokens(settings, choice) > 8192  # one tile for all rows keeps no sums of others
    larger = (
        predict(shape, replace(settings, completion_tokens=settings.completion_tokens + 100), choice),
        predict(shape, replace(settings, rank=rank + 8), choice),
        predict(shape, settings, replace(choice, sequences=sequences + 1, share_prompts=False)),
        predict(shape, settings, replace(choice, tile_rows=8192 if is_tiled else choice.tile_rows, head_rows=2048)),
        predict(shape, settings, replace(choice, kv_sequences=2)),
        predict(shape, replace(settings, has_reference=True), choice),
    )
    for other in larger:
        for phase in PHASES:
            least, more = prediction.allocated_bytes(phase), other.allocated_bytes(phase)
            assert_at_most(f"{phase} before", least, more, rows=other.phases[phase])
    assert all(row.amount_bytes >= 0 for rows in prediction.phases.values() for row in rows)
    assert least_bytes(shape, settings) <= prediction.peak_bytes


@hypothesis_settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(SHAPES)), context=st.integers(64, 8192), gib=st.floats(0.5, 80.0))
def test_what_is_chosen_fits_and_what_is_refused_does_not(name: str, context: int, gib: float) -> None:
    card = card_of_size(gib)
    made = plan(SHAPES[name], at(context), card, ())
    assert made.fits == (made.prediction.peak_bytes <= card.memory_bytes)
    assert made.fits == (choose(SHAPES[name], at(context), card) is not None)
    assert made.fits == (least_bytes(SHAPES[name], at(context)) <= card.memory_bytes)


@hypothesis_settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    context=st.integers(64, 32_768),
    gib=st.floats(2.0, 100.0),
    host_gib=st.floats(0.0, 20.0) | st.none(),
    speed_of=st.sampled_from(["T4", "4090", "H100"]),
)
def test_no_choice_that_fits_is_faster(
    name: str, context: int, gib: float, host_gib: float | None, speed_of: str
) -> None:
    settings = at(context, host_bytes=None if host_gib is None else round(host_gib * GIB))
    card = replace(find_card(speed_of), memory_bytes=round(gib * GIB))
    chosen = choose(SHAPES[name], settings, card)
    for other in considered(settings):
        if fits(predict(SHAPES[name], settings, other), settings, card, PHASES):
            assert chosen is not None, other
            assert cost(SHAPES[name], settings, card, chosen)[0] <= cost(SHAPES[name], settings, card, other)[0], other


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    context=st.integers(64, 32_768),
    gib=st.floats(2.0, 80.0),
    more_gib=st.floats(0.0, 40.0),
    speed_of=st.sampled_from(["T4", "4090", "H100"]),
)
def test_more_memory_is_never_slower(name: str, context: int, gib: float, more_gib: float, speed_of: str) -> None:
    card = replace(find_card(speed_of), memory_bytes=round(gib * GIB))
    larger = replace(card, memory_bytes=round((gib + more_gib) * GIB))
    least, more = (choose(SHAPES[name], at(context), one) for one in (card, larger))
    if least is not None:
        assert more is not None
        assert cost(SHAPES[name], at(context), card, more)[0] <= cost(SHAPES[name], at(context), card, least)[0]


def test_a_prompt_that_is_computed_once_costs_its_keys_and_values() -> None:
    """... and their gradients in every layer; without it, it costs what its tokens cost in a layer."""
    settings = replace(QLORA, prompt_tokens=8192, completion_tokens=8192)
    once, each = (predict(LLAMA_8B, settings, replace(THRIFTY, share_prompts=share)) for share in (True, False))
    name = "the prompt's keys and values, and their gradients"
    assert_row(once.phases["backward"], name, 2 * 8192 * 128 * 1024)
    of_once, of_each = ({row.name: row.amount_bytes for row in p.phases["backward"]} for p in (once, each))
    assert of_once["attention, recomputed"] < of_each["attention, recomputed"]
    assert (once.host_bytes, each.host_bytes) == (4 * GIB, 4 * GIB)
    whole = predict(LLAMA_8B, settings, replace(THRIFTY, sequences=8))
    assert name not in {row.name for row in whole.phases["backward"]}, "all in one micro-batch"


def test_calls_of_the_kernels_are_as_long_as_the_plan_counts_them() -> None:
    assert working_set.CALL_TOKENS == pieces.CALL_TOKENS
    assert (working_set.SHORT_ROW_BYTES, working_set.PART_BYTES) == (layout.SHORT_ROW_BYTES, padded.PART_BYTES)
    rows = padded.Padding([512], [1536, 1536], [0, 0], torch.device("cpu"))
    heads, key_width = LLAMA_8B.num_attention_heads, LLAMA_8B.key_width
    assert working_set._row_bytes(LLAMA_8B, at(2048)) == rows.row_bytes(heads, key_width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be 1 or more"),
        ({"completion_tokens": 0}, "completion_tokens is 0"),
        ({"weight_bytes": 1}, "weight_bytes is 1"),
        ({"method": "full"}, "4-bit weights cannot be trained"),
        ({"has_fp8_cache": True}, "need the engine vllm"),
    ],
)
def test_settings_that_contradict_each_other(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(replace(QLORA, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("spelling", ["H100", "h100 80gb", "NVIDIA H100 80GB", "H100-80GB"])
def test_spellings_of_a_card(spelling: str) -> None:
    assert find_card(spelling).name == "H100 80GB"


@pytest.mark.parametrize("name", ["", "80GB", "RTX", "48"])
def test_a_name_that_several_cards_share_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown card"):
        find_card(name)


def test_cards() -> None:
    assert len({card.name for card in CARDS}) == len(CARDS)
    assert find_card("4090").memory_bytes < 24 * GIB and not find_card("T4").has_bf16
    assert card_of_size(24) == Card("24 GiB", 24 * GIB, True)
    with pytest.raises(UserError, match="--vram-gib is 0"):
        card_of_size(0)


def test_a_folder_is_planned_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((FOLDER / "Qwen3-4B.json").read_text())
    assert replace(find_shape(str(tmp_path), FOLDER), name="Qwen3-4B") == SHAPES["Qwen3-4B"]


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("3060", "RTX 3060 12GB"),
        ("RTX 3090", "RTX 3090 24GB"),
        ("4070 Ti", "RTX 4070 Ti 12GB"),
        ("4070 ti super", "RTX 4070 Ti SUPER 16GB"),
        ("GeForce RTX 5090", "RTX 5090 32GB"),
        ("L4", "L4 24GB"),
        ("L40S", "L40S 48GB"),
        ("A10", "A10 24GB"),
        ("A100-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB", "A100 80GB"),
        ("Tesla T4", "T4 16GB"),
        ("H200", "H200 141GB"),
    ],
)
def test_cards_that_people_own(spelling: str, name: str) -> None:
    assert find_card(spelling).name == name


@pytest.mark.parametrize(
    "spelling, said",
    [
        ("A100", "did you mean A100 40GB or A100 80GB"),
        ("V100", "it is a Volta, which CUDA 13"),
        ("Tesla V100-SXM2-32GB", "The oldest cards that they do are Turings"),
        ("P100", "it is a Pascal"),
    ],
)
def test_cards_that_are_two_or_too_old(spelling: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_card(spelling)
