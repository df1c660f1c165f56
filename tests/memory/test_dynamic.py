"""Which layers stay out of 4 bits."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlvr.memory.dynamic import DynamicChoice, choose
from rlvr.memory.quantized import decoder_linears, is_quantized, quantize
from rlvr.model.policy import Policy
from support.precision import assert_same_bits
from support.tiny_models import plain_model, stream

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'rlvr[qlora]'")

CPU = torch.device("cpu")
WORST = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def model() -> Any:
    """One in which a layer's blocks hold outliers, which suffer most."""
    made = plain_model("llama", torch.bfloat16)
    with torch.no_grad():
        made.get_submodule(WORST).weight[:, ::64] *= 30.0
    return made


def policy_of(model: Any) -> Policy:
    return Policy(model, model.get_decoder(), (0,), "auto", None)


def chosen(model: Any, share: float) -> DynamicChoice:
    policy = policy_of(copy.deepcopy(model))
    return choose(policy.model, lambda: policy.hidden_stream(*stream()), policy.logits, device=CPU, share=share)


@torch.no_grad()
def logprobs(model: Any) -> Tensor:
    policy = policy_of(model)
    return policy.logits(policy.hidden_stream(*stream())).float().log_softmax(-1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_it_keeps_what_buys_most_within_its_budget(model: Any, share: float) -> None:
    choice = chosen(model, share)
    assert len(choice.candidates) == len(decoder_linears(model)) == 21
    assert choice.budget_bytes == int(share * choice.nf4_bytes)
    assert sum(one.extra_bytes for one in choice.candidates if one.is_kept) <= choice.budget_bytes
    rates = [one.kl_drop / one.extra_bytes for one in choice.candidates]
    assert rates == sorted(rates, reverse=True)
    if share == 0.0:
        assert choice.kept == [] and choice.kl_chosen == choice.kl_nf4 > 0.0
    else:
        assert choice.kept[0] == WORST and choice.kl_chosen < 0.8 * choice.kl_nf4


def test_the_model_that_keeps_them_is_as_near_as_it_says(model: Any) -> None:
    choice = chosen(model, 0.3)
    after = copy.deepcopy(model)
    found = quantize(after, device=CPU, keep=choice.kept)
    before_TV, after_TV = logprobs(model), logprobs(after)
    kl = (before_TV.exp() * (before_TV - after_TV)).sum(-1).mean().item()
    assert kl == pytest.approx(choice.kl_chosen, rel=1e-4)
    assert sum(found.bytes_4bit.values()) < choice.nf4_bytes
    for name, before in decoder_linears(model).items():
        layer = after.get_submodule(name)
        assert is_quantized(layer) != (name in choice.kept)
        if name in choice.kept:
            assert_same_bits(layer.weight, before.weight, case=name)


def test_a_layer_that_cannot_be_quantised_is_no_candidate() -> None:
    odd = plain_model("llama", torch.bfloat16, intermediate_size=96)  # no multiple of 64
    assert {one.name.rsplit(".", 1)[1] for one in chosen(odd, 0.1).candidates} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
    }  # fmt: skip


def test_the_weights_stay_at_home_meanwhile(model: Any) -> None:
    """None of the 16-bit weights is among the parameters of the model that measures."""
    measured = copy.deepcopy(model)
    policy = policy_of(measured)
    linears = set(decoder_linears(model))
    seen = []

    def hidden() -> Tensor:
        seen.append([name for name in linears if isinstance(measured.get_submodule(name), nn.Linear)])
        wide = [name for name, weight in measured.named_parameters() if weight.dtype == torch.bfloat16]
        assert not linears & {name.removesuffix(".weight") for name in wide}
        return policy.hidden_stream(*stream())

    choose(measured, hidden, policy.logits, device=CPU, share=0.0)
    assert len(seen) == 1 + 1 + len(linears) + 1 and seen[0] == []


def test_it_is_written_as_json(model: Any) -> None:
    choice = chosen(model, 0.3)
    written = json.loads(json.dumps(choice.as_json()))
    assert written["kept"] == choice.kept and len(written["candidates"]) == 21
    assert written["candidates"][0].keys() == {"name", "kl_drop", "extra_bytes", "is_kept"}
