"""The prediction beside live tensors: an update of every family, with the layer function, on a CPU."""
# S tokens of a sequence

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from rlvr.attention import layout as attention
from rlvr.batch import MiniBatch, TrainRow
from rlvr.linear import HAS_BFLOAT16, SUMMANDS, through_onednn
from rlvr.logprob import token_logprobs
from rlvr.memory import layer as layer_function
from rlvr.memory import lora as lora_function
from rlvr.memory.mlp import gate_in_place
from rlvr.memory.norm import fuse_norms
from rlvr.model.policy import Policy, in_turn
from rlvr.plan.predict import predict
from rlvr.plan.settings import Choice, PlanSettings, Recompute, shares_prompt
from rlvr.plan.shapes import shape_of
from rlvr.runtime.ledger import Ledger
from rlvr.types import Totals
from support.plans import assert_bytes

S = 512
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text")
VOCABULARY = 64
SIZES = {
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 352, "vocab_size": VOCABULARY, "max_position_embeddings": 1024, "tie_word_embeddings": False,
    "eos_token_id": 1, "bos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


def make_model(family: str, *, method: str, dtype: torch.dtype, choice: Choice, recompute: str, **changes: int) -> Any:
    AttentionInterface.register(attention.NAME, attention.attention)
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SIZES | changes))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME, dtype=dtype).train()
    if method == "lora":
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415

        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        assert lora_function.fuse(model) == []
    model = through_onednn(model)
    assert gate_in_place(model) == SIZES["num_hidden_layers"]
    assert fuse_norms(model, impl="auto") > 2 * SIZES["num_hidden_layers"]
    if recompute == "none":
        return model
    assert (
        layer_function.install(
            model, tile_rows=choice.tile_rows, offload=choice.offload, keep_attention=choice.keep_attention
        )
        == []
    )
    return model


def update(model: Any, ledger: Ledger, settings: PlanSettings) -> None:
    """Forward and backward of one micro-batch: the completions of one prompt, whose tokens lie first."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    prompt, rows, length = settings.prompt_tokens, settings.completions, settings.completion_tokens
    token_S = torch.randint(2, VOCABULARY, (prompt + rows * length,))
    owners = [0] * rows if prompt else list(range(rows))
    layout = attention.PackedLayout([prompt] if prompt else [], [length] * rows, owners, torch.device("cpu"))
    with ledger.phase("update"):
        position_S = torch.cat([torch.arange(prompt), (prompt + torch.arange(length)).repeat(rows)])
        torch.autograd.backward(_loss(base, token_S, position_S, layout))


def update_sharing(model: Any, ledger: Ledger, settings: PlanSettings) -> None:
    """Forward and backward of a group, each completion in a micro-batch of its own behind the shared prompt."""
    policy = Policy(model, model.get_base_model().get_decoder(), (1,), "auto", None)
    tokens = torch.randint(2, VOCABULARY, (settings.prompt_tokens + 1 + settings.completion_tokens,))
    prompt, answer = tuple(tokens[: settings.prompt_tokens + 1].tolist()), tokens[settings.prompt_tokens + 1 :]
    rows = tuple(TrainRow(0, prompt, answer, torch.zeros(len(answer)), 1.0) for _ in range(settings.completions))
    micros = MiniBatch(rows, Totals(len(rows), 1)).split_sharing(len(answer), policy.device, share_prompts="auto")
    assert len(micros) == settings.completions
    with ledger.phase("update"):
        for micro in in_turn(policy, micros, with_gradient=True):
            torch.autograd.backward(policy.token_logprobs(micro, temperature=1.0)[0].mean())


def _loss(base: Any, token_S: Tensor, position_S: Tensor, layout: attention.PackedLayout) -> Tensor:
    body, head = base.get_decoder(), base.get_output_embeddings()
    stream = body(input_ids=token_S[None], position_ids=position_S[None], use_cache=False, layout=layout)
    hidden = stream.last_hidden_state[0][layout.num_prefix_tokens :]
    logp, _ = token_logprobs(hidden, head.weight, token_S[layout.num_prefix_tokens :], temperature=1.0)
    return logp.mean()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_of_an_update(family: str, method: str, dtype: torch.dtype) -> None:
    choice = Choice(
        sequences=1, share_prompts=True, offload=False, tile_rows=256, head_rows=S,
        kv_sequences=1, states_on_host=False,
    )  # fmt: skip
    compare(family, method, dtype, choice, completion_tokens=2 * S)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("tile_rows", [64, 512])
@pytest.mark.parametrize("keep_attention", [False, True])
def test_choices_of_the_planner(offload: bool, tile_rows: int, keep_attention: bool) -> None:
    choice = Choice(
        sequences=1, share_prompts=True, offload=offload, tile_rows=tile_rows, head_rows=S,
        kv_sequences=1, states_on_host=False, keep_attention=keep_attention,
    )  # fmt: skip
    compare("llama", "lora", torch.float32, choice, completion_tokens=2 * S)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("prompt_tokens", "sequences"), [(64, 4), (256, 3)])
def test_completions_that_share_a_prompt(method: str, prompt_tokens: int, sequences: int) -> None:
    choice = Choice(
        sequences=sequences, share_prompts=True, offload=False, tile_rows=256, head_rows=S,
        kv_sequences=1, states_on_host=False,
    )  # fmt: skip
    compare("llama", method, torch.float32, choice, prompt_tokens=prompt_tokens)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_where_nothing_is_recomputed(family: str, method: str, dtype: torch.dtype) -> None:
    choice = Choice(
        sequences=2, share_prompts=True, offload=False, tile_rows=256, head_rows=S, kv_sequences=1, states_on_host=False
    )  # fmt: skip
    compare(family, method, dtype, choice, recompute="none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_narrow_feed_forward_leaves_the_peak_to_attention(dtype: torch.dtype) -> None:
    choice = Choice(
        sequences=1, share_prompts=True, offload=False, tile_rows=256, head_rows=S, kv_sequences=1, states_on_host=False
    )  # fmt: skip
    compare("qwen3", "lora", dtype, choice, completion_tokens=2 * S, recompute="none", intermediate_size=64)


@pytest.mark.parametrize(("family", "prompt_tokens", "sequences"), [("llama", 64, 4), ("gemma3_text", 256, 3)])
def test_a_shared_prompt_where_nothing_is_recomputed(family: str, prompt_tokens: int, sequences: int) -> None:
    choice = Choice(
        sequences=sequences, share_prompts=True, offload=False, tile_rows=256, head_rows=S, kv_sequences=1,
        states_on_host=False,
    )  # fmt: skip
    compare(family, "lora", torch.float32, choice, prompt_tokens=prompt_tokens, recompute="none")


@pytest.mark.parametrize(("sequences", "prompt_tokens", "completion_tokens"), [(32, 12, 24), (64, 0, 16), (16, 60, 40)])
@pytest.mark.parametrize("recompute", ["none", "tiles"])
@pytest.mark.parametrize("intermediate_size", [64, 352])  # attention's peak, and the feed-forward's
def test_short_rows_that_are_padded_together(
    sequences: int, prompt_tokens: int, completion_tokens: int, recompute: Recompute, intermediate_size: int
) -> None:
    choice = Choice(
        sequences=sequences, share_prompts=True, offload=False, tile_rows=256, head_rows=S, kv_sequences=1,
        states_on_host=False,
    )  # fmt: skip
    compare(
        "llama", "lora", torch.float32, choice, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens,
        recompute=recompute, intermediate_size=intermediate_size,
    )  # fmt: skip


@pytest.mark.parametrize(("offload", "keep_attention"), [(False, False), (True, False), (True, True), (False, True)])
def test_a_prompt_that_is_computed_once(offload: bool, keep_attention: bool) -> None:
    """Three completions of a prompt, one to a micro-batch: between them the prompt's keys and values are kept."""
    choice = Choice(
        sequences=1, share_prompts=True, offload=offload, tile_rows=256, head_rows=S,
        kv_sequences=1, states_on_host=False, keep_attention=keep_attention,
    )  # fmt: skip
    compare("llama", "lora", torch.float32, choice, prompt_tokens=S, completion_tokens=2 * S, completions=3)


def compare(
    family: str,
    method: str,
    dtype: torch.dtype,
    choice: Choice,
    *,
    prompt_tokens: int = 0,
    completion_tokens: int = S,
    completions: int | None = None,
    recompute: Recompute = "tiles",
    **changes: int,
) -> None:
    """Two micro-batches, so that the gradients are there, within 5 %; on a CPU host and device are one.

    A processor without bfloat16 also takes the bounded float32 copies of linear.py, which no plan counts.
    """
    completions = completions or choice.sequences
    settings = PlanSettings(
        method=method, quantization="none", rank=16, weight_bytes=dtype.itemsize, optimizer="adamw",  # type: ignore[arg-type]
        completions=completions, completions_per_step=2 * completions, prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens, has_reference=False, engine="native", shares_weights=True,
        has_fp8_cache=False,
        recompute=recompute, is_cuda=False, host_bytes=None, kept_share=0.0, states_on_host=None,
    )  # fmt: skip
    model = make_model(family, method=method, dtype=dtype, choice=choice, recompute=recompute, **changes)
    ledger = Ledger(torch.device("cpu"), model.parameters())
    for _ in range(2):
        (update_sharing if shares_prompt(settings, choice) else update)(model, ledger, settings)
    shape = shape_of(model.config.to_dict(), name=family, where="the test")
    prediction = predict(shape, settings, choice)
    states = next(row for row in prediction.phases["optimizer"] if "states" in row.name)
    expected = prediction.training_bytes - states.amount_bytes + prediction.host_bytes
    phase = max(("head", "backward"), key=prediction.allocated_bytes)
    measured = ledger.peaks["update"].allocated_bytes
    is_upcast = dtype == torch.bfloat16 and not HAS_BFLOAT16
    copies = 4 * SUMMANDS * (128 + 352) if is_upcast else 0  # of what goes in and comes out of a feed-forward
    assert_bytes(
        f"{phase} without states, with the host's", expected, measured, within=0.05 + copies / measured,
        rows=(*prediction.phases[phase], *prediction.host), case=f"{family}, {method}, {dtype}, {choice}",
    )  # fmt: skip
