"""A vLLM engine that samples from something else than the policy, or that fails: the run stops before the step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlvr import grpo
from rlvr.batch import pack
from rlvr.chat import tags_of
from rlvr.model.policy import Policy
from rlvr.rewards import open_scorer
from rlvr.runtime.meter import Meter
from rlvr.sampler import EngineSettings, Sampling, VllmSampler, start_engine
from rlvr.training.mismatch import Mismatch
from rlvr.training.run import Run
from rlvr.types import Group, Prompt, StepFailed
from support.precision import assert_same_bits
from support.runs import records

pytest.importorskip("vllm", reason="vLLM is not installed here")
CPU = torch.device("cpu")
Kind = TypeVar("Kind", bound=VllmSampler)
EXACT = 5e-5  # nats a token, in float32
STEPS = 4
LONG = (150, 140, 160, 133)  # the cache keeps blocks of 128 tokens on a CPU, and only whole ones
SHAPE = {"architecture": "llama", "hidden_size": 96, "layers": 2, "heads": 3, "kv_heads": 1, "intermediate_size": 96}
CHANGES = {
    "model.scratch": SHAPE,
    "model.adapter": "lora",
    "model.lora.rank": 8,
    "model.lora.alpha": 16,
    "prepare.max_prompt_tokens": 190,
    "grpo.steps": STEPS,
    "grpo.prompts_per_step": len(LONG),  # all of them in each step: their blocks are found again
    "grpo.learning_rate": 0.02,
    "memory.tokens_per_micro_batch": 3000,
}


class Stale(VllmSampler):
    """It keeps the weights that it was sent first."""

    def sync(self, policy: Policy) -> None:
        if self.eos_ids is None:
            super().sync(policy)


class Recorded(VllmSampler):
    """It keeps what it has sampled."""

    def sample(self, prompts: Sequence[Prompt], count: int, *, seed: tuple[int, ...]) -> Iterator[Group]:
        self.groups = list(super().sample(prompts, count, seed=seed))
        yield from self.groups


@pytest.fixture(scope="module")
def prompts(make_prompts: Callable[..., list[Prompt]]) -> list[Prompt]:
    return make_prompts(*LONG)


@pytest.fixture(scope="module")
def make(make_toy: Callable[..., Any]) -> Callable[..., Any]:
    """Toys whose logits are all far from 0, and near each other, as those of large models: 16 bits round them much."""
    folder = make_toy(CHANGES).base
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.get_input_embeddings().weight.data.add_(0.2)  # it is the head, too
    model.save_pretrained(folder)
    return lambda changes=None: make_toy(CHANGES | (changes or {}))


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, make: Callable[..., Any], tokenizer: Any) -> Iterator[VllmSampler]:
    """Of the types of weights and head that a test asks for."""
    kind: str = getattr(request, "param", "float32 auto")
    dtype, _, head = kind.partition(" ")
    toy = make()
    settings = EngineSettings(
        model=str(toy.base), revision=None, dtype=dtype, quantization="none",
        lora_rank=8, max_sequence_tokens=176, max_rows=16, kv_cache_bytes=32 * 2**20, kv_cache_dtype="auto",
        head_dtype="float32" if head == "float32" else "auto", is_eager=True, is_cuda=False, is_shared=True,
    )  # fmt: skip
    sampling = Sampling(toy.cfg.rollout.temperature, toy.cfg.rollout.max_completion_tokens, 16)
    with closing(VllmSampler(start_engine(settings), tokenizer, "", sampling, False)) as sampler:
        yield sampler


def train(toy: Any, sampler: Any, prompts: Sequence[Prompt], folder: Path) -> dict[str, Tensor]:
    """Run or go on with a run in `folder`; its trained weights."""
    folder.mkdir(exist_ok=True)
    with open_scorer(toy.cfg.rewards, toy.cfg.verifiers, tags_of(toy.cfg.model.template)) as scorer:
        grpo.train(
            toy.cfg, toy.resolved, toy.policy, sampler, scorer, prompts, run=Run(folder), meter=Meter(CPU),
            show=lambda done, **values: None, stop=lambda: False,
        )  # fmt: skip
    weights: dict[str, Tensor] = toy.policy.trainable_state()
    return weights


def of(kind: type[Kind], engine: VllmSampler) -> Kind:
    return kind(engine.llm, engine.tokenizer, engine.opening, engine.sampling, engine.is_cuda)


def hotter(engine: VllmSampler, patch: pytest.MonkeyPatch) -> VllmSampler:
    return replace(engine, sampling=replace(engine.sampling, temperature=engine.sampling.temperature + 0.1))


def stale(engine: VllmSampler, patch: pytest.MonkeyPatch) -> VllmSampler:
    return of(Stale, engine)


def old_cache(engine: VllmSampler, patch: pytest.MonkeyPatch) -> VllmSampler:
    assert engine.llm.reset_prefix_cache()  # for the last time
    patch.setattr(engine.llm, "reset_prefix_cache", lambda: True)
    return engine


def dead(engine: VllmSampler, patch: pytest.MonkeyPatch) -> VllmSampler:
    """Its executor fails in the middle of the second step."""
    executor = engine.llm.llm_engine.engine_core.engine_core.model_executor
    execute, calls = executor.execute_model, itertools.count()

    def fail(*given: Any, **named: Any) -> Any:
        if next(calls) == 15:  # a step is a pass over the prompts and nine over single tokens
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return execute(*given, **named)

    patch.setattr(executor, "execute_model", fail)
    return engine


class TestTheRunStops:
    @pytest.fixture(scope="class")
    def undisturbed(
        self, engine: VllmSampler, make: Callable[..., Any], prompts: list[Prompt],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:  # fmt: skip
        folder = tmp_path_factory.mktemp("undisturbed")
        return train(make(), engine, prompts, folder), records(folder)

    def test_not_without_a_reason(self, undisturbed: tuple[dict[str, Tensor], list[dict[str, Any]]]) -> None:
        _, lines = undisturbed
        assert len(lines) == STEPS and max(line["sampler/logp_gap_max"] for line in lines) <= EXACT

    @pytest.mark.parametrize(
        "plant, done, kind, said",
        [
            (hotter, 0, Mismatch, r"step 1: the rollout engine and the trainer disagree.* nats apart on average"),
            (stale, 1, Mismatch, r"step 2: .*whether the engine got this step's weights"),
            (old_cache, 1, Mismatch, r"step 2: .*forgot what it had cached of older ones"),
            (dead, 1, StepFailed, r"step 2: vLLM failed while sampling: RuntimeError: CUDA error: an illegal memory"),
        ],
    )
    def test_before_the_step_and_the_next_run_goes_on_as_if_nothing_had_been(
        self,
        plant: Callable[[VllmSampler, pytest.MonkeyPatch], VllmSampler],
        done: int,
        kind: type[StepFailed],
        said: str,
        undisturbed: tuple[dict[str, Tensor], list[dict[str, Any]]],
        engine: VllmSampler,
        make: Callable[..., Any],
        prompts: list[Prompt],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        toy, (weights, lines) = make(), undisturbed
        with monkeypatch.context() as patch, pytest.raises(kind, match=said) as caught:
            train(toy, plant(engine, patch), prompts, tmp_path)
        assert "run the same command again to continue" in str(caught.value)
        assert records(tmp_path) == lines[:done]
        (checkpoint,) = tmp_path.glob("step-*")
        saved = load_file(checkpoint / "weights.safetensors")
        assert checkpoint.name == f"step-{done:08d}"
        assert_same_bits(saved, toy.policy.trainable_state())
        found = train(make(), engine, prompts, tmp_path)
        assert records(tmp_path) == lines
        assert_same_bits(found, weights)


@pytest.mark.parametrize(
    "engine, correction, least, most",
    [
        ("bfloat16 auto", "token_truncate", 0.02, 0.05),
        ("bfloat16 auto", "token_mask", 0.02, 0.05),
        ("bfloat16 float32", "off", 0.0, 0.002),
    ],
    indirect=["engine"],
)
def test_in_16_bits_the_log_has_the_gap_and_what_it_drops_and_a_float32_head_brings_both_sides_together(
    correction: str,
    least: float,
    most: float,
    engine: VllmSampler,
    make: Callable[..., Any],
    prompts: list[Prompt],
    tmp_path: Path,
) -> None:
    """The line of a step, from what was sampled and from the weights before it."""
    low, high = 0.97, 1.03
    bounds = {"grpo.importance_correction": correction, "grpo.importance_min": low, "grpo.importance_max": high}
    changes = {"compute.dtype": "bfloat16", "grpo.steps": 1, **bounds}
    sampler, toy, before = of(Recorded, engine), make(changes), make(changes).policy
    train(toy, sampler, prompts, tmp_path)
    ones = torch.ones(len(prompts), toy.cfg.grpo.completions_per_prompt)
    (minibatch,) = pack(sampler.groups, ones, ones.bool(), [True] * len(prompts), minibatches=1, mask_truncated=False)
    (micro,) = minibatch.split(10_000, CPU)
    gap = before.logprobs(micro, temperature=toy.cfg.rollout.temperature) - micro.sampler_logp_T
    weight = gap.exp() if correction == "token_mask" else torch.ones_like(gap)
    is_inside = (low <= weight) & (weight <= high)
    rows = [is_inside[micro.row_T == row].any() for row in range(int(ones.sum()))]
    (line,) = records(tmp_path)
    assert line["sampler/logp_gap_mean"] == pytest.approx(gap.abs().mean().item(), rel=1e-3)
    assert line["sampler/logp_gap_max"] == pytest.approx(gap.abs().max().item(), rel=1e-3)
    assert line["sampler/dropped_tokens"] == pytest.approx(1.0 - is_inside.float().mean().item(), abs=1e-6)
    assert line["sampler/dropped_rows"] == pytest.approx(1.0 - sum(rows) / len(rows))
    assert (line["sampler/dropped_tokens"] > 0.1) == (correction == "token_mask")
    assert least < line["sampler/logp_gap_mean"] < most
