"""What a run plans before it loads any weights, from params.yaml and the model's config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from rlvr.config import Config
from rlvr.logprob.fused import rows_within
from rlvr.memory.states import waits_on_host
from rlvr.model.policy import device_of, dtype_of, has_bfloat16, offloads
from rlvr.model.source import Source, config_file
from rlvr.plan.cards import Card, this_host
from rlvr.plan.planner import Plan
from rlvr.plan.run_settings import Own, hold, hold_sampling
from rlvr.plan.settings import Settings
from rlvr.plan.shapes import all_shapes, read_shape
from rlvr.problems import tables
from rlvr.types import Prompt


def plan_grpo(cfg: Config, prompts: Sequence[Prompt], *, step: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a step of GRPO: the largest there can be, or one like `step`, a line of the log.

    Raises UserError as plan_training does.
    """
    completions = cfg.grpo.completions_per_prompt
    groups = cfg.grpo.prompts_per_step if step is None else max(1, cfg.grpo.prompts_per_step - step["groups/skipped"])
    return plan_training(
        cfg, prompts, completions=completions, at_once=groups * completions,
        minibatch=max(1, groups * completions // cfg.grpo.minibatches_per_rollout), has_reference=cfg.grpo.beta > 0,
        lengths=None if step is None else (step["prompt/mean_length"], step["completion/mean_length"]),
    )  # fmt: skip


def plan_training(
    cfg: Config,
    prompts: Sequence[Prompt],
    *,
    completions: int,
    at_once: int,
    minibatch: int,
    has_reference: bool,
    lengths: tuple[float, float] | None = None,
) -> Plan:
    """The plan of a step with `completions` of each prompt, from the model's config.json and the run's settings alone.

    `at_once` completions are sampled in a step, `minibatch` trained on in an optimizer step; `has_reference`: a frozen
    copy of what is trained is kept next to it. `lengths` are tokens of a prompt and of a completion: without them,
    the longest there can be. Raises UserError where only other settings than those of the run fit.
    """
    device, shape = device_of(cfg), read_shape(config_file(Source.read(tables.BASE)))
    settings = replace(
        _settings(cfg, device, prompts, completions, at_once),
        has_reference=has_reference,
        optimizer=cfg.memory.optimizer,
        states_on_host=waits_on_host(cfg.memory.optimizer_on_host, device),
    )
    if lengths is not None:
        settings = replace(settings, prompt_tokens=round(lengths[0]), completion_tokens=round(lengths[1]))
    own = Own(
        tokens_per_micro_batch=cfg.memory.tokens_per_micro_batch,
        share_prompts=cfg.memory.share_prompts != "off",
        tile_rows=cfg.memory.tile_rows,
        offload=cfg.memory.tile_rows is not None and offloads(cfg.memory, device),
        head_rows=cfg.memory.logit_chunk_rows or rows_within(shape.vocab_size, device),
        max_rows=cfg.rollout.max_rows,
        minibatch=minibatch,
    )
    return hold(shape, settings, own, card_of(device), all_shapes())


def plan_sampling(cfg: Config, source: Source, prompts: Sequence[Prompt], *, completions: int) -> Plan:
    """The plan of sampling `completions` of each prompt from the model `source`, without training."""
    device, shape = device_of(cfg), read_shape(config_file(source))
    settings = _settings(cfg, device, prompts, completions, completions * len(prompts))
    return hold_sampling(shape, settings, cfg.rollout.max_rows, card_of(device), all_shapes())


def _settings(cfg: Config, device: torch.device, prompts: Sequence[Prompt], completions: int, at_once: int) -> Settings:
    """What sampling and training have in common; of what only training has, there is nothing here."""
    return Settings(
        method="lora" if cfg.model.adapter == "lora" else "full",
        quantization="none" if cfg.model.quantization == "none" else "nf4",
        rank=cfg.model.lora.rank,
        weight_bytes=dtype_of(cfg).itemsize,
        optimizer="adamw",
        completions=completions,
        completions_per_step=at_once,
        prompt_tokens=max(len(prompt.tokens) for prompt in prompts),
        completion_tokens=cfg.rollout.max_completion_tokens,
        has_reference=False,
        engine=cfg.rollout.sampler,
        shares_weights=cfg.rollout.sampler == "native" or is_shared(cfg),
        has_fp8_cache=cfg.rollout.sampler == "vllm" and cfg.rollout.vllm.kv_cache_dtype == "fp8",
        recompute="tiles",
        is_cuda=device.type == "cuda",
        host_bytes=this_host().memory_bytes,
        kept_share=cfg.model.dynamic_share if cfg.model.quantization == "nf4-dynamic" else 0.0,
        states_on_host=None,
    )


def card_of(device: torch.device) -> Card:
    """The memory that a run on `device` has."""
    if device.type != "cuda":
        return this_host()
    about = torch.cuda.get_device_properties(device)
    return Card(about.name, about.total_memory, has_bfloat16())


def is_shared(cfg: Config) -> bool:
    """Whether the trainer is to use vLLM's copy of the weights: frozen ones, as full fine-tuning moves its own."""
    return cfg.rollout.vllm.share_weights == "auto" and cfg.model.adapter == "lora"
