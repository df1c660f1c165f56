"""A prompt that is computed once gives what it gives when it is computed with every micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr.attention import PackedLayout
from rlvr.attention.shared_prompt import BehindPrompt, SharedPrompt
from rlvr.batch import MicroBatch, MiniBatch, TrainRow
from rlvr.memory.layer import install
from rlvr.model.policy import Policy, in_turn
from rlvr.types import SharePrompts, Totals
from support.precision import assert_close_where, assert_gradients, assert_same_bits
from support.tiny_models import make_model, worst

CPU = torch.device("cpu")
GROUPS = [(9, [7, 6, 5]), (1, [4, 4]), (6, [8]), (2, [3, 3, 1, 1])]  # tokens of the prompt, and of its completions
BUDGET = 12


def minibatch(groups: list[tuple[int, list[int]]]) -> MiniBatch:
    generator = torch.Generator().manual_seed(5)

    def tokens(count: int) -> Tensor:
        return torch.randint(0, 50, (count,), generator=generator)

    rows = []
    for number, (prompt_length, lengths) in enumerate(groups):
        prompt = tuple(tokens(prompt_length).tolist())
        for length in lengths:
            rows.append(TrainRow(number, prompt, tokens(length), torch.zeros(length), 1.0 + float(tokens(1)) / 50))
    return MiniBatch(tuple(rows), Totals(len(rows), sum(len(row.token_ids) for row in rows)))


def split(batch: MiniBatch, share: SharePrompts, budget: int = BUDGET) -> list[MicroBatch]:
    return batch.split_sharing(budget, CPU, share_prompts=share)


def gradients(policy: Policy, micros: list[MicroBatch]) -> dict[str, Tensor]:
    """Of Σ advantage · logp over all micro-batches."""
    policy.model.zero_grad()
    for micro in in_turn(policy, micros, with_gradient=True):
        logp_T, _ = policy.token_logprobs(micro, temperature=1.0)
        torch.autograd.backward((logp_T * micro.advantage_T).sum())
    return {name: weight.grad.clone() for name, weight in policy.trainable().items() if weight.grad is not None}


WAYS: tuple[tuple[bool | None, SharePrompts], ...] = ((None, "auto"), (False, "on"), (True, "auto"))


def found_in_all_ways(policy: Policy, batch: MiniBatch) -> Iterator[dict[str, Tensor]]:
    """Gradients with plain layers; with layers recomputed in tiles; with their inputs on the host."""
    for offload, share in WAYS:
        if offload is not None:
            install(policy.model, tile_rows=5, offload=offload)
        yield gradients(policy, split(batch, share))


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("phi3", {}), ("qwen3", {}), ("gemma3_text", {"sliding_window": 4}), ("granite", {})],
)
def test_gradients_are_those_of_prompts_computed_each_time(family: str, changes: dict[str, Any], adapter: bool) -> None:
    """... also in windows, and under checkpoints, which granite's layers run under."""
    policy, batch = make_model(family, adapter=adapter, dtype=torch.float64, **changes), minibatch(GROUPS)
    expected = gradients(policy, split(batch, "off"))
    for found in found_in_all_ways(policy, batch):
        assert_gradients(found, expected, 1e-12)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("gemma3_text", {"sliding_window": 4})])
def test_kept_attention_changes_no_bit(family: str, changes: dict[str, Any], offload: bool) -> None:
    """... of completions behind a prompt, nor of the prompt: what is kept is of all that they see."""
    policy, batch = make_model(family, adapter=True, dtype=torch.bfloat16, **changes), minibatch(GROUPS)
    found = []
    for keep_attention in (False, True):
        install(policy.model, tile_rows=5, offload=offload, keep_attention=keep_attention)
        found.append(gradients(policy, split(batch, "on")))
    assert_same_bits(*found)


@pytest.mark.parametrize("window", [None, 3])
def test_sinks_behind_a_shared_prompt(window: int | None) -> None:
    """Outputs and gradients, that of the sinks among them, are those of the prompt in the same stream."""
    generator = torch.Generator().manual_seed(3)
    q, k, v, direction = (torch.randn(12, n, 8, generator=generator, dtype=torch.float64) for n in (4, 2, 2, 4))
    direction[:5] = 0.0  # no token of the prompt is predicted
    sink_H = torch.tensor([-1.0, 0.5, 3.0, 9.0], dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (q, k, v, sink_H)]
    expected = PackedLayout([5], [4, 3], [0, 0], CPU).attend(0, q, k, v, 0.3, window, sink_H)
    gradients = torch.autograd.grad(expected, leaves, direction)
    prompt = SharedPrompt(torch.arange(5), torch.arange(5))
    of_prompt = prompt.attend(0, q[:5], k[:5], v[:5], 0.3, window, sink_H)
    of_rows = BehindPrompt(prompt, [4, 3]).attend(0, q[5:], k[5:], v[5:], 0.3, window, sink_H)
    assert_close_where(torch.cat([of_prompt, of_rows]), expected, 1e-13)
    torch.autograd.backward(of_rows, direction[5:])
    torch.autograd.backward(of_prompt, direction[:5])
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert leaf.grad is not None
        assert_close_where(leaf.grad, gradient, 1e-12)


def test_in_float32_they_are_as_near_the_truth() -> None:
    batch = minibatch(GROUPS)
    truth = gradients(make_model("llama", adapter=True, dtype=torch.float64), split(batch, "off"))
    policy = make_model("llama", adapter=True, dtype=torch.float32)
    repeated = worst(gradients(policy, split(batch, "off")), truth)
    for found in found_in_all_ways(policy, batch):
        assert_gradients(found, truth, max(1.5 * repeated, 1e-6))


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=4)), min_size=1, max_size=3),
    st.integers(1, 40),
)
def test_any_groups_and_budget(groups: list[tuple[int, list[int]]], budget: int) -> None:
    policy, batch = make_model("llama", adapter=True, dtype=torch.float64, num_hidden_layers=2), minibatch(groups)
    install(policy.model, tile_rows=4, offload=True)
    expected = gradients(policy, batch.split(1000, CPU))
    for share in ("auto", "on"):
        micros = split(batch, share, budget)
        assert_gradients(gradients(policy, micros), expected, 1e-12)
        assert sum(len(micro.target_T) for micro in micros) == batch.totals.tokens


def test_each_prompt_goes_through_the_model_once() -> None:
    policy, batch = make_model("llama", adapter=True, dtype=torch.float64), minibatch(GROUPS)
    seen: list[int] = []
    policy.body.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["input_ids"].numel()), with_kwargs=True
    )
    gradients(policy, split(batch, "on"))
    prompts = sum(length - 1 for length, _ in GROUPS)
    assert sum(seen) == prompts + batch.totals.tokens
    assert max(seen) <= BUDGET + 1  # the group of one row is a micro-batch of its own, with its prompt: 5 + 8 tokens
    seen.clear()
    gradients(policy, split(batch, "off"))
    assert sum(seen) > prompts + batch.totals.tokens


def test_auto_shares_prompts_of_groups_that_are_larger_than_a_micro_batch() -> None:
    batch = minibatch(GROUPS)
    shared = [micro.layout.prompt for micro in split(batch, "auto") if isinstance(micro.layout, BehindPrompt)]
    assert [len(prompt.token_S) for prompt in shared] == [8, 8]  # 7 tokens, then 6 + 5; the rest fits or has no prefix
    assert not any(isinstance(micro.layout, BehindPrompt) for micro in split(batch, "auto", 1000))
    assert not any(isinstance(micro.layout, BehindPrompt) for micro in split(batch, "off"))


def test_log_probabilities_without_a_graph() -> None:
    policy, batch = make_model("qwen3", adapter=True, dtype=torch.float32), minibatch(GROUPS)

    def by_row(micros: list[MicroBatch]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        for micro in in_turn(policy, micros, with_gradient=False):
            logp_T = policy.logprobs(micro, temperature=1.0)
            assert not logp_T.requires_grad
            for row in range(int(micro.row_T.max()) + 1):
                yield tuple(micro.target_T[micro.row_T == row].tolist()), logp_T[micro.row_T == row]

    micros = split(batch, "on")
    found, expected = dict(by_row(micros)), dict(by_row(batch.split(1, CPU)))
    for tokens, logp_T in expected.items():
        assert_close_where(found[tokens], logp_T, 1e-5)
    assert all(not micro.layout.prompt.keys for micro in micros if isinstance(micro.layout, BehindPrompt)), "given up"


def test_a_prompt_that_was_not_computed_is_an_error() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float32)
    micro = split(minibatch(GROUPS), "on")[-1]
    with pytest.raises(AssertionError, match="in_turn"):
        policy.hidden(micro)
