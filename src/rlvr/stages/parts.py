"""The model, tokenizer and sampler that several stages put together in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr import prepared
from rlvr.config import Config
from rlvr.logprob.fused import rows_within
from rlvr.memory.cards import Card, this_host
from rlvr.memory.command import demand
from rlvr.memory.own import Own, hold, hold_sampling
from rlvr.memory.planner import Plan
from rlvr.memory.settings import Settings
from rlvr.memory.shapes import all_shapes, read_shape
from rlvr.policy import Policy, device_of, for_training, load_policy, load_tokenizer, offloads
from rlvr.sampler import NativeSampler, Sampling
from rlvr.source import Source, config_file
from rlvr.types import Prompt


def open_policy(cfg: Config, *, start: Path | None) -> tuple[Policy, Any]:
    """The policy, moved on to the weights in `start` if there are any, and the tokenizer of the prepared data."""
    tokenizer = load_tokenizer(prepared.BASE)
    return load_policy(cfg, Source.read(prepared.BASE), tokenizer, start=start), tokenizer


def open_trainee(cfg: Config, made: Plan, *, start: Path | None) -> tuple[Policy, Any]:
    """open_policy, made ready for training, once its memory is known to suffice.

    Raises UserError, with the plan, before any weights are loaded when no way of training it fits.
    """
    demand(made)
    policy, tokenizer = open_policy(cfg, start=start)
    return for_training(policy, cfg.memory), tokenizer


def plan_training(
    cfg: Config, prompts: Sequence[Prompt], *, completions: int, at_once: int, minibatch: int, has_reference: bool
) -> Plan:
    """The plan of a step with `completions` of each prompt, from the model's config.json and the run's settings alone.

    `at_once` completions are sampled in a step, `minibatch` trained on in an optimizer step; `has_reference`: a frozen
    copy of what is trained is kept beside it. Raises UserError where only other settings than those of the run fit.
    """
    device, shape = device_of(cfg), read_shape(config_file(Source.read(prepared.BASE)))
    settings = _settings(cfg, device, prompts, completions, at_once, has_reference=has_reference)
    own = Own(
        tokens_per_micro_batch=cfg.memory.tokens_per_micro_batch,
        tile_rows=cfg.memory.tile_rows,
        offload=cfg.memory.tile_rows is not None and offloads(cfg.memory, device),
        head_rows=cfg.memory.logit_chunk_rows or rows_within(shape.vocab_size, device),
        max_rows=cfg.rollout.max_rows,
        minibatch=minibatch,
    )
    return hold(shape, settings, own, card_of(device), all_shapes())


def plan_sampling(cfg: Config, prompts: Sequence[Prompt], *, completions: int) -> Plan:
    """The plan of sampling `completions` of each prompt, without training."""
    device, shape = device_of(cfg), read_shape(config_file(Source.read(prepared.BASE)))
    settings = _settings(cfg, device, prompts, completions, completions * len(prompts), has_reference=False)
    return hold_sampling(shape, settings, cfg.rollout.max_rows, card_of(device), all_shapes())


def _settings(
    cfg: Config,
    device: torch.device,
    prompts: Sequence[Prompt],
    completions: int,
    at_once: int,
    *,
    has_reference: bool,
) -> Settings:
    return Settings(
        method="lora" if cfg.model.adapter == "lora" else "full",
        quantization=cfg.model.quantization,
        rank=cfg.model.lora.rank,
        weight_bytes={"float32": 4, "bfloat16": 2}[cfg.compute.dtype],
        optimizer="adamw",
        completions=completions,
        completions_per_step=at_once,
        prompt_tokens=max(len(prompt.tokens) for prompt in prompts),
        completion_tokens=cfg.rollout.max_completion_tokens,
        has_reference=has_reference,
        engine="native",
        shares_weights=True,
        recompute="tiles",
        is_cuda=device.type == "cuda",
        host_bytes=this_host().memory_bytes,
    )


def card_of(device: torch.device) -> Card:
    """The memory that a run on `device` has."""
    if device.type != "cuda":
        return this_host()
    about = torch.cuda.get_device_properties(device)
    return Card(about.name, about.total_memory, torch.cuda.is_bf16_supported())


def open_sampler(cfg: Config, tokenizer: Any, *, temperature: float) -> NativeSampler:
    sampling = Sampling(temperature, cfg.rollout.max_completion_tokens, cfg.rollout.max_rows)
    return NativeSampler(tokenizer, cfg.model.template.opening, sampling)
