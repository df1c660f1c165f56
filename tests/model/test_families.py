"""Architectures as transformers builds them, tiny and with random weights, against their own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.batch import MiniBatch, pack, supervised
from rlvr.config import Config
from rlvr.grpo import make_optimizer, update
from rlvr.logprob import LogitMap
from rlvr.model.head import check_head
from rlvr.model.policy import Policy, load_tokenizer
from rlvr.runtime.meter import Meter
from rlvr.sampler import NativeSampler, Sampling
from rlvr.stages.resolve import resolve_training
from rlvr.tasks.arithmetic import problem
from rlvr.types import Group, Prompt, Totals, UserError
from support.loading import load as load_single
from support.loading import trained_as
from support.precision import assert_close_where

EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "shared_expert_intermediate_size": 32}  # fmt: skip
DELTA_NET = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
             "linear_num_value_heads": 4}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": None},
    "phi3": {"pad_token_id": 0},
    "gemma": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": 64, "query_pre_attn_scalar": 24},
    "gemma2": {
        "head_dim": 16, "sliding_window": 64, "query_pre_attn_scalar": 24,
        "final_logit_softcapping": 2.0, "attn_logit_softcapping": None,
    },
    "olmo2": {},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0, "attention_multiplier": 0.3, "residual_multiplier": 0.7},
    "gpt_oss": {"head_dim": 16, "sliding_window": 64, **EXPERTS},
    "qwen3_5_text": {"num_hidden_layers": 4, "head_dim": 16, **DELTA_NET},
    "qwen3_next": {"num_hidden_layers": 4, "head_dim": 16, **DELTA_NET, **EXPERTS},
    "olmo_hybrid": {"num_hidden_layers": 4, **DELTA_NET},
}  # fmt: skip
MAPS = {"gemma2": LogitMap(1.0, 2.0, 1.0), "cohere": LogitMap(1.0, None, 0.25), "granite": LogitMap(1.0, None, 0.125)}
EXAMPLES = [
    ((7, 8, 9, 10), torch.tensor([11, 12, 13])),
    ((7, 8), torch.tensor([14, 1])),
    ((9,), torch.tensor([15, 16])),
]


@pytest.fixture
def make_model(tmp_path: Path, base: Callable[[str], Path]) -> Callable[..., Path]:
    """A folder with a model of a family and the tokenizer of the tiny one."""

    def make(family: str, **changes: Any) -> Path:
        tokenizer = load_tokenizer(base("llama"))
        shape = {
            "vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256,
            "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id,
        }  # fmt: skip
        config = AutoConfig.for_model(family, **(shape | FAMILIES.get(family, {}) | changes))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.add_(torch.randn_like(weight) * (3.0 if name.endswith("sinks") else 0.1))
        model.save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return tmp_path / family

    return make


WINDOWED = {
    "mistral": 5,
    "gemma3_text": 4,
    "phi3": 6,
    "gpt_oss": 4,
}  # tokens of the window, less than those of a sequence
LONGER = [
    (tuple(range(6, 15)), torch.tensor([11, 12, 13, 9, 8, 7, 1])),
    ((7, 8), torch.tensor([14, 9, 16, 6, 5, 4, 3])),
]


def load(cfg: Config, folder: Path) -> Policy:
    policy = load_single(cfg, folder)
    policy.model.to(dtype_of(folder))
    return policy


def dtype_of(folder: Path) -> torch.dtype:
    """transformers computes products of experts and the delta rule in float32 at most."""
    return torch.float32 if folder.name in ("gpt_oss", "qwen3_next", "olmo_hybrid") else torch.float64


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_are_the_models_own(
    family: str, make_model: Callable[..., Path], make_config: Callable[..., Config]
) -> None:
    compare_training(load(make_config(), folder := make_model(family)), folder, EXAMPLES)


@pytest.mark.parametrize("family", WINDOWED)
def test_training_in_a_sliding_window(
    family: str, make_model: Callable[..., Path], make_config: Callable[..., Config]
) -> None:
    folder = make_model(family, sliding_window=WINDOWED[family], num_hidden_layers=3)
    policy = load(make_config(), folder)
    compare_training(policy, folder, LONGER)
    whole = load(make_config(), make_model(family, sliding_window=64, num_hidden_layers=3))
    (micro,) = MiniBatch(supervised(LONGER), Totals(2, 14)).split(1000, torch.device("cpu"))
    assert (policy.hidden(micro) - whole.hidden(micro)).abs().max() > 0.01, "a window that changes nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_generate(
    family: str, make_model: Callable[..., Path], make_config: Callable[..., Config]
) -> None:
    compare_sampling(load(make_config(), folder := make_model(family)), folder, EXAMPLES)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("phi3", {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attention_dropout": 0.5}),
        ("starcoder2", {"residual_dropout": 0.5, "embedding_dropout": 0.5, "attention_dropout": 0.5}),
        ("opt", {"dropout": 0.5, "attention_dropout": 0.5, "word_embed_proj_dim": 64, "ffn_dim": 96}),
    ],
)
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_dropout_of_a_config_is_off_in_training_and_sampling(
    family: str,
    changes: dict[str, Any],
    adapter: str,
    make_model: Callable[..., Path],
    make_config: Callable[..., Config],
) -> None:
    policy = load(make_config({"model.adapter": adapter}), folder := make_model(family, **changes))
    (micro,) = MiniBatch(supervised(EXAMPLES), Totals(3, 7)).split(1000, torch.device("cpu"))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    expected_T = torch.cat([own_logp(plain, prompt, target) for prompt, target in EXAMPLES])
    assert_close_where(policy.token_logprobs(micro, temperature=1.0)[0], expected_T, 1e-5)
    compare_sampling(policy, folder, EXAMPLES)


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3_5_text"])
def test_an_update_in_tiles_and_small_micro_batches_is_that_in_one_piece(
    family: str,
    make_model: Callable[..., Path],
    make_config: Callable[..., Config],
    make_groups: Callable[..., list[Group]],
) -> None:
    folder = make_model(family)
    changes = {
        "model.adapter": "lora", "grpo.passes_per_rollout": 1, "rollout.max_logp_gap": None,
        "prepare.max_prompt_tokens": 8, "rollout.max_completion_tokens": 12,
    }  # fmt: skip
    thrifty = {"memory.tokens_per_micro_batch": 20, "memory.share_prompts": "on", "memory.tile_rows": 6}
    advantage_PG, all_PG = torch.tensor([[1.0, -0.5, -0.5], [-1.0, 0.2, 0.8]]), torch.ones(2, 3, dtype=torch.bool)
    groups = make_groups([(7, [5, 2, 9]), (3, [1, 4, 4])])
    (minibatch,) = pack(groups, advantage_PG, all_PG, [True, True], minibatches=1, mask_truncated=False)
    found = []
    for cfg in (make_config(changes), make_config(changes | thrifty)):
        policy, resolved = trained_as(cfg, load_single(cfg, folder)), resolve_training(cfg)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in policy.trainable().values():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        optimizer = make_optimizer(cfg, resolved, policy, 1)
        losses, _, norm = update(cfg, resolved, policy, None, optimizer, [minibatch], Meter(torch.device("cpu")))
        found.append((*losses, norm))
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("family", WINDOWED)
def test_sampling_in_a_sliding_window(
    family: str, make_model: Callable[..., Path], make_config: Callable[..., Config]
) -> None:
    folder = make_model(family, sliding_window=WINDOWED[family])
    compare_sampling(load(make_config(), folder), folder, LONGER)


def compare_training(policy: Policy, folder: Path, examples: list[tuple[tuple[int, ...], torch.Tensor]]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype_of(folder), attn_implementation="eager")
    (micro,) = MiniBatch(supervised(examples), Totals(3, 7)).split(1000, torch.device("cpu"))
    found_T, _ = policy.token_logprobs(micro, temperature=1.0)
    expected_T = torch.cat([own_logp(plain, prompt, target) for prompt, target in examples])
    assert_close_where(found_T, expected_T, 1e-5)
    torch.autograd.backward(found_T.sum())
    torch.autograd.backward(expected_T.sum())
    for a, b in zip(policy.model.parameters(), plain.parameters(), strict=True):
        rounding = 1e-4 if plain.dtype == torch.float64 else 5e-4
        assert_close_where(a.grad, b.grad, rounding + rounding * b.grad.abs())


def compare_sampling(policy: Policy, folder: Path, examples: list[tuple[tuple[int, ...], torch.Tensor]]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype_of(folder), attn_implementation="eager")
    sampler = NativeSampler(load_tokenizer(folder), "", Sampling(0.0, 12, 100))
    sampler.sync(policy)
    prompts = [Prompt(problem(10, 10 + i, 2), prompt) for i, (prompt, _) in enumerate(examples)]
    for group in sampler.sample(prompts, 1, seed=(0,)):
        tokens = torch.tensor([group.prompt.tokens])
        expected = plain.generate(tokens, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(tokens))
        assert group.completions[0].token_ids.tolist() == expected[0, tokens.shape[1] :].tolist()


@pytest.mark.parametrize("family", MAPS)
def test_the_loss_sees_what_the_model_does_to_its_logits(
    family: str, make_model: Callable[..., Path], make_config: Callable[..., Config]
) -> None:
    """One step on advantages of 1 from a policy that has not moved: its gradient is that of the mean of -logp."""
    folder = make_model(family)
    changes = {"rollout.max_logp_gap": None, "grpo.passes_per_rollout": 1, "grpo.loss_type": "bnpo"}
    cfg = make_config(changes | {"grpo.warmup_steps": 0})
    policy, plain = load(cfg, folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    assert policy.logit_map == MAPS[family]
    minibatch, resolved = MiniBatch(supervised(EXAMPLES), Totals(3, 7)), resolve_training(cfg)
    _, (stats,), norm = update(
        cfg, resolved, policy, None, make_optimizer(cfg, resolved, policy, 1), [minibatch], Meter(torch.device("cpu"))
    )
    expected_T = torch.cat([own_logp(plain, prompt, target) for prompt, target in EXAMPLES])
    assert_close_where(stats.logp_T, expected_T.detach(), 1e-5)
    torch.autograd.backward(expected_T.mean())
    own_norm = torch.cat([weight.grad.flatten() for weight in plain.parameters() if weight.grad is not None]).norm()
    assert norm == pytest.approx(own_norm.item(), rel=1e-4)


@pytest.mark.parametrize("family", MAPS)
def test_the_sampler_draws_from_what_the_model_does_to_its_logits(
    family: str, make_model: Callable[..., Path], make_config: Callable[..., Config]
) -> None:
    folder = make_model(family)
    policy, plain = load(make_config(), folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    sampler = NativeSampler(load_tokenizer(folder), "", Sampling(1.0, 6, 100))
    sampler.sync(policy)
    (group,) = sampler.sample([Prompt(problem(10, 10, 2), EXAMPLES[0][0])], 3, seed=(0,))
    for completion in group.completions:
        expected_T = own_logp(plain, group.prompt.tokens, completion.token_ids).detach()
        assert_close_where(completion.logp.double(), expected_T, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", MAPS)
def test_rounding_to_16_bits_is_no_reason_to_refuse(
    family: str, dtype: torch.dtype, make_model: Callable[..., Path]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(family), dtype=dtype, attn_implementation="rlvr")
    check_head(model, name=family)


def own_logp(model: Any, prompt: tuple[int, ...], target: torch.Tensor) -> torch.Tensor:
    logits_SV: torch.Tensor = model(input_ids=torch.tensor([[*prompt, *target.tolist()]])).logits[0]
    logp_TV = logits_SV[len(prompt) - 1 : -1].log_softmax(-1)
    return logp_TV.gather(1, target[:, None])[:, 0]


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gemma2", {"attn_logit_softcapping": 50.0}, "gemma2: attn_logit_softcapping is not supported"),
        ("phi", {}, "head has a bias are not supported"),
        ("hyperclovax", {"logits_scaling": 8.0}, "HyperCLOVAXForCausalLM changes its logits in another way"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(
    family: str,
    changes: dict[str, Any],
    message: str,
    make_model: Callable[..., Path],
    make_config: Callable[..., Config],
) -> None:
    with pytest.raises(UserError, match=message):
        load(make_config(), make_model(family, **changes))
