"""The predicted peak of a rollout beside live tensors, with the sampler in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from rlvr.attention import layout
from rlvr.model.policy import Policy
from rlvr.plan.predict import predict
from rlvr.plan.settings import Choice, PlanSettings
from rlvr.plan.shapes import shape_of
from rlvr.runtime.ledger import Ledger
from rlvr.sampler import NativeSampler, Sampling
from rlvr.types import Problem, Prompt
from support.plans import assert_bytes

COMPLETIONS = 8


class NoText:
    """A tokenizer whose texts nobody reads."""

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        return ["" for _ in rows]


@pytest.mark.parametrize(
    ("prompt_tokens", "completion_tokens", "prompts", "vocabulary"),
    [(64, 64, 4, 2048), (256, 32, 4, 2048), (64, 96, 8, 256), (32, 32, 1, 32768)],
)
def test_the_peak_of_a_rollout(prompt_tokens: int, completion_tokens: int, prompts: int, vocabulary: int) -> None:
    AttentionInterface.register(layout.NAME, layout.attention)
    config = AutoConfig.for_model(
        "llama", hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        intermediate_size=352, vocab_size=vocabulary, max_position_embeddings=512, eos_token_id=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation=layout.NAME, dtype=torch.float32)
    never = (vocabulary,)  # no token ends a completion: all are as long as they may be
    sampling = Sampling(max_completion_tokens=completion_tokens, temperature=1.0, max_rows=COMPLETIONS * prompts)
    sampler = NativeSampler(NoText(), "", sampling, Policy(model, model.get_decoder(), never, "auto", None))
    questions = [Prompt(Problem(str(i), "", "", "", 1), (2,) * prompt_tokens) for i in range(prompts)]
    ledger = Ledger(torch.device("cpu"), model.parameters())
    with ledger.phase("rollout"):
        list(sampler.sample(questions, COMPLETIONS, seed=(0,)))
    settings = PlanSettings(
        method="full", quantization="none", rank=1, weight_bytes=4, optimizer="adamw", completions=COMPLETIONS,
        completions_per_step=COMPLETIONS * prompts,
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, has_reference=False, engine="native",
        shares_weights=True,
        has_fp8_cache=False, recompute="tiles", is_cuda=False, host_bytes=None, kept_share=0.0, states_on_host=None,
    )  # fmt: skip
    choice = Choice(
        sequences=1, share_prompts=True, offload=False, tile_rows=512, head_rows=512,
        kv_sequences=COMPLETIONS * prompts, states_on_host=True,
    )  # fmt: skip
    prediction = predict(shape_of(config.to_dict(), name="tiny", where="the test"), settings, choice)
    planned, measured = prediction.allocated_bytes("rollout"), ledger.peaks["rollout"].allocated_bytes
    assert_bytes("rollout", planned, measured, within=0.05, rows=prediction.phases["rollout"])
