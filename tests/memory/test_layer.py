"""Gradients of layers that keep only their input are those of plain autograd, in less memory."""
# S tokens · D hidden

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.attention import PackedLayout, kernels
from rlvr.attention import layout as attention_layout
from rlvr.memory import layer as layer_module
from rlvr.memory.layer import install
from rlvr.memory.offload import Pass
from rlvr.model.policy import Policy
from rlvr.runtime.ledger import LiveStorages
from support.precision import assert_close_where, assert_gradients, assert_relative, assert_same_bits, relative
from support.tiny_models import SHAPE, gradients, make_model, plain_model, stream, worst

CPU = torch.device("cpu")

KNOWN = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text")
LIMIT = {torch.float32: 1e-6, torch.float64: 1e-12}
TILES = (1, 6, 100)  # of 22 rows: one each, ragged, more than there are


@pytest.mark.parametrize("dtype", LIMIT, ids=str)
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", KNOWN)
def test_gradients_are_those_of_plain_autograd(family: str, adapter: bool, dtype: torch.dtype) -> None:
    policy = make_model(family, adapter=adapter, dtype=dtype)
    expected = gradients(policy)
    for tile_rows in TILES:
        kept = {}
        for offload in (False, True):
            assert install(policy.model, tile_rows=tile_rows, offload=offload) == []
            kept[offload] = gradients(policy)
            assert_gradients(kept[offload], expected, LIMIT[dtype])
        assert_same_bits(kept[True], kept[False])


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("family", ["olmo2", "granite"])  # other norms, and another formula with the usual norms
def test_a_layer_that_it_does_not_know_runs_under_a_checkpoint(family: str, offload: bool) -> None:
    policy = make_model(family, adapter=True, dtype=torch.float64)
    expected = gradients(policy)
    assert install(policy.model, tile_rows=4, offload=offload) == ["layers.0", "layers.1", "layers.2"]
    assert_gradients(gradients(policy), expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("family", KNOWN)
def test_kept_attention_changes_no_bit_and_runs_no_kernel_again(
    family: str, offload: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma's windows among them; rows that the CPU would pad go one by one, as they do on a GPU."""
    monkeypatch.setattr(attention_layout, "SHORT_ROW_BYTES", 0)
    calls: list[int] = []
    run = kernels.forward

    def counted(*args: Any) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return run(*args)

    monkeypatch.setattr(kernels, "forward", counted)
    policy = make_model(family, adapter=True, dtype=dtype, **({"sliding_window": 4} if "gemma" in family else {}))
    found, counts = [], []
    for keep_attention in (False, True):
        assert install(policy.model, tile_rows=6, offload=offload, keep_attention=keep_attention) == []
        calls.clear()
        found.append(gradients(policy))
        counts.append(len(calls))
    assert_same_bits(*found)
    assert counts[0] == 2 * counts[1] > 0


def test_kept_attention_is_what_backward_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another output, or another log-sum-exp, gives other gradients."""
    monkeypatch.setattr(attention_layout, "SHORT_ROW_BYTES", 0)
    policy = make_model("llama", adapter=True, dtype=torch.float64)
    install(policy.model, tile_rows=6, offload=True, keep_attention=True)
    expected, fetch = gradients(policy), Pass.fetch
    for shape in ((22, 4, 16), (4, 22)):
        monkeypatch.setattr(Pass, "fetch", lambda *at, n=shape: fetch(*at) * (1.01 if fetch(*at).shape == n else 1.0))
        assert worst(gradients(policy), expected) > 1e-4


def test_kept_attention_takes_no_part_where_rows_are_padded() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float64)
    install(policy.model, tile_rows=6, offload=True)
    expected = gradients(policy)
    install(policy.model, tile_rows=6, offload=True, keep_attention=True)
    assert_same_bits(gradients(policy), expected)


def test_dropout_is_replayed() -> None:
    policy = make_model("phi3", adapter=False, dtype=torch.float64, resid_pdrop=0.3)
    torch.manual_seed(3)
    expected = gradients(policy)
    assert len(install(policy.model, tile_rows=4, offload=True)) == 3
    torch.manual_seed(3)
    assert_gradients(gradients(policy), expected, 1e-12)


def test_in_bfloat16_it_is_as_near_the_truth_as_plain_autograd() -> None:
    exact = make_model("llama", adapter=True, dtype=torch.float64)
    policy = make_model("llama", adapter=True, dtype=torch.bfloat16)
    with torch.no_grad():
        for a, b in zip(exact.model.parameters(), policy.model.parameters(), strict=True):
            a.copy_(b)
    truth, plain = gradients(exact), gradients(policy)
    install(policy.model, tile_rows=6, offload=True)
    found = gradients(policy)
    for name, g in truth.items():
        assert_relative(found[name], g, 2 * relative(plain[name], g) + 2**-8, case=name)


@settings(max_examples=15)
@given(
    prefixes=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    rows=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=5),
    tile_rows=st.integers(1, 60),
)
def test_any_stream_in_any_tiles(prefixes: list[int], rows: list[tuple[int, int]], tile_rows: int) -> None:
    rows = sorted(((n, min(prefix, len(prefixes) - 1)) for n, prefix in rows), key=lambda row: row[1])
    layout = PackedLayout(prefixes, [n for n, _ in rows], [prefix for _, prefix in rows], torch.device("cpu"))
    position_S = torch.cat(
        [*map(torch.arange, prefixes), *(torch.arange(prefixes[p], prefixes[p] + n) for n, p in rows)]
    )
    policy = make_model("qwen3", adapter=True, dtype=torch.float64)
    expected = gradients(policy, (position_S * 7 % 50, position_S, layout))
    install(policy.model, tile_rows=tile_rows, offload=True)
    assert_gradients(gradients(policy, (position_S * 7 % 50, position_S, layout)), expected, 1e-12)


def test_names_parameters_and_sampling_stay() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float32)
    names, state = [name for name, _ in policy.model.named_modules()], policy.model.state_dict()
    with torch.no_grad():
        expected = policy.hidden_stream(*stream())
        install(policy.model, tile_rows=5, offload=True)
        assert_same_bits(policy.hidden_stream(*stream()), expected)
    assert [name for name, _ in policy.model.named_modules()] == names
    assert {name: weight.data_ptr() for name, weight in policy.model.state_dict().items()} == {
        name: weight.data_ptr() for name, weight in state.items()
    }


def test_a_copy_runs_its_own_layers() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float64)
    install(policy.model, tile_rows=5, offload=False)
    before, reference = gradients(policy)["output"], policy.frozen_copy()
    twin = Policy(copy.deepcopy(policy.model), policy.body, (0,), "auto", None)
    twin = Policy(twin.model, twin.base.get_decoder(), (0,), "auto", None)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.1)
    with torch.no_grad():
        assert_close_where(reference.hidden_stream(*stream()), before, 1e-12)
    assert_close_where(gradients(twin)["output"], before, 1e-12)


@pytest.mark.parametrize(("offload", "keep_attention"), [(True, False), (True, True), (False, True)])
def test_passes_may_overlap_and_be_repeated(
    offload: bool, keep_attention: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_model("qwen3", adapter=True, dtype=torch.float64)
    monkeypatch.setattr(attention_layout, "SHORT_ROW_BYTES", 0)
    install(policy.model, tile_rows=5, offload=offload, keep_attention=keep_attention)
    once = gradients(policy)
    policy.model.zero_grad()
    first, second = policy.hidden_stream(*stream()), policy.hidden_stream(*stream())
    direction = torch.randn(first.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.autograd.backward(first, direction, retain_graph=True)
    torch.autograd.backward(second, direction)
    torch.autograd.backward(first, direction)
    found = {name: weight.grad / 3 for name, weight in policy.trainable().items() if weight.grad is not None}
    assert_gradients(found | {"output": first.detach()}, once, 1e-14)


class Kept(torch.autograd.Function):
    """Hands on a gradient that it keeps."""

    gradient: Tensor
    copy: Tensor

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        Kept.gradient, Kept.copy = grad, grad.clone()
        return grad


WATCHES = {
    "tensor": lambda y, keep: y.register_hook(keep),
    "function": lambda y, keep: y.grad_fn.register_prehook(lambda grads: keep(grads[0])),
}


@pytest.mark.parametrize("watch", WATCHES)
def test_a_gradient_that_a_hook_keeps_is_not_written_over(watch: str) -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float32)
    install(policy.model, tile_rows=6, offload=False)
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(grad: Tensor) -> None:
        kept.append((grad, grad.clone()))

    def hook(module: Any, inputs: Any, output: Tensor) -> None:
        WATCHES[watch](output, keep)

    expected = gradients(policy)
    for layer in policy.body.layers:
        layer.register_forward_hook(hook)
    assert_same_bits(gradients(policy), expected)
    assert len(kept) == 3
    for grad, before in kept:
        assert_same_bits(grad, before)


def test_a_gradient_that_nobody_else_holds_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float32)
    install(policy.model, tile_rows=6, offload=False)
    own, found = layer_module._mlp_backward, []

    def watched(*args: Any, is_ours: bool) -> Any:
        found.append(is_ours)
        return own(*args, is_ours=is_ours)

    monkeypatch.setattr(layer_module, "_mlp_backward", watched)
    gradients(policy)
    with LiveStorages(CPU, reads=False):
        gradients(policy)
    assert found == [True] * 6


def test_a_gradient_that_another_function_keeps_is_not_written_over() -> None:
    policy = make_model("llama", adapter=True, dtype=torch.float32)
    install(policy.model, tile_rows=6, offload=False)
    for layer in policy.body.layers:
        layer.register_forward_hook(lambda module, inputs, output: Kept.apply(output))  # type: ignore[no-untyped-call]
        gradients(policy)
        assert_same_bits(Kept.gradient, Kept.copy)


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], ["o_proj"], ["down_proj"], r".*layers\.1\.self_attn\.q_proj"]
)
def test_an_adapter_on_a_part_of_the_layers(targets: Any) -> None:
    def made() -> Policy:
        model = plain_model("llama", torch.float64)
        lora = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
        model = get_peft_model(model, lora)
        return Policy(model, model.get_base_model().get_decoder(), (0,), "auto", None)

    policy = made()
    expected = gradients(policy)
    for tile_rows in TILES:
        assert install(policy.model, tile_rows=tile_rows, offload=True) == []
        assert_gradients(gradients(policy), expected, 1e-12)


@pytest.mark.parametrize("shared", [0, 2])
def test_a_layer_that_is_called_with_more_than_hidden_states(shared: int) -> None:
    more = {"head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 50}
    kinds = ["sliding_attention", "full_attention"] * 2
    config = AutoConfig.for_model(
        "gemma4_text", **SHAPE | more | {"num_hidden_layers": 4, "layer_types": kinds, "num_kv_shared_layers": shared}
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="rlvr").train()
    policy = Policy(model, model.get_decoder(), (0,), "auto", None)
    expected = gradients(policy)
    assert len(install(model, tile_rows=4, offload=False)) == 4
    assert_gradients(gradients(policy), expected, 1e-5)


def test_a_weight_that_changed_before_backward_is_an_error() -> None:
    policy = make_model("llama", adapter=False, dtype=torch.float32)
    install(policy.model, tile_rows=5, offload=True)
    hidden_SD = policy.hidden_stream(*stream())
    with torch.no_grad():
        policy.body.layers[1].mlp.down_proj.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(hidden_SD.sum())


def test_tiles_have_at_least_a_row() -> None:
    with pytest.raises(ValueError, match="tile_rows is 0"):
        install(make_model("llama", adapter=True, dtype=torch.float32).model, tile_rows=0, offload=False)


def peak_bytes(*, layers: int, tile_rows: int | None, tokens: int = 256, **changes: Any) -> int:
    """Peak of a forward and backward pass of one sequence, the model itself not counted."""
    policy = make_model("llama", adapter=True, dtype=torch.float64, num_hidden_layers=layers, **changes)
    if tile_rows is not None:
        install(policy.model, tile_rows=tile_rows, offload=False)
    layout = PackedLayout([], [tokens], [0], torch.device("cpu"))
    with LiveStorages(CPU, reads=False) as measured:
        torch.autograd.backward(policy.hidden_stream(torch.arange(tokens) % 50, torch.arange(tokens), layout).sum())
    peak: int = measured.peak_bytes
    return peak


def test_a_layer_costs_its_input_and_a_tile() -> None:
    tokens, hidden, inner = 256, 64, 128
    few, many = (peak_bytes(layers=n, tile_rows=32) for n in (2, 8))
    assert many - few == 6 * tokens * hidden * 8
    plain = peak_bytes(layers=8, tile_rows=None) - peak_bytes(layers=2, tile_rows=None)
    assert plain >= 6 * tokens * 8 * (6 * hidden + 4 * inner)  # what autograd keeps of each layer, at the least
    wide = {n: peak_bytes(layers=2, tile_rows=n, intermediate_size=2048) for n in (32, tokens)}
    assert wide[tokens] - wide[32] >= (tokens - 32) * 2048 * 8 * 4  # gate, up, their product and a gradient
