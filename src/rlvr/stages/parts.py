"""The model, tokenizer and sampler that several stages put together in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr import prepared
from rlvr.config import Config
from rlvr.memory.cards import Card, this_host
from rlvr.memory.command import demand
from rlvr.memory.planner import Plan, plan
from rlvr.memory.settings import Settings
from rlvr.memory.shapes import all_shapes, read_shape
from rlvr.memory.states import waits_on_host
from rlvr.policy import Policy, device_of, dtype_of, for_training, has_bfloat16, load_policy, load_tokenizer
from rlvr.sampler import NativeSampler, Sampling
from rlvr.source import Source, config_file
from rlvr.stages.quantization import decide, kept_layers
from rlvr.types import Prompt


def open_policy(cfg: Config, *, start: Path | None) -> tuple[Policy, Any]:
    """The policy, moved on to the weights in `start` if there are any, and the tokenizer of the prepared data."""
    tokenizer = load_tokenizer(prepared.BASE)
    policy = load_policy(cfg, Source.read(prepared.BASE), tokenizer, start=start, keep=kept_layers(cfg))
    return policy, tokenizer


def open_trainee(
    cfg: Config, prompts: Sequence[Prompt], *, completions: int, has_reference: bool, start: Path | None
) -> tuple[Policy, Any]:
    """open_policy, made ready for training, once its memory is known to suffice.

    Without `start` it is the first to load the model, and so it chooses what nf4-dynamic keeps. Raises UserError, with
    the plan, before any weights are loaded when no way of training it fits.
    """
    demand(planned(cfg, Source.read(prepared.BASE), prompts, completions=completions, has_reference=has_reference))
    if start is None:
        decide(cfg)
    policy, tokenizer = open_policy(cfg, start=start)
    return for_training(policy, cfg.memory), tokenizer


def planned(cfg: Config, source: Source, prompts: Sequence[Prompt], *, completions: int, has_reference: bool) -> Plan:
    """The plan of a step with `completions` of each prompt, from the model's config.json alone.

    `has_reference`: a frozen copy of what is trained is kept beside it.
    """
    device = device_of(cfg)
    settings = Settings(
        method="lora" if cfg.model.adapter == "lora" else "full",
        quantization="none" if cfg.model.quantization == "none" else "nf4",
        rank=cfg.model.lora.rank,
        weight_bytes=dtype_of(cfg).itemsize,
        optimizer=cfg.memory.optimizer,
        completions=completions,
        prompt_tokens=max(len(prompt.tokens) for prompt in prompts),
        completion_tokens=cfg.rollout.max_completion_tokens,
        has_reference=has_reference,
        engine="native",
        recompute="tiles",
        is_cuda=device.type == "cuda",
        host_bytes=this_host().memory_bytes,
        kept_share=cfg.model.dynamic_share if cfg.model.quantization == "nf4-dynamic" else 0.0,
        states_on_host=waits_on_host(cfg.memory.optimizer_on_host, device),
    )
    return plan(read_shape(config_file(source)), settings, card_of(device), all_shapes())


def card_of(device: torch.device) -> Card:
    """The memory that a run on `device` has."""
    if device.type != "cuda":
        return this_host()
    about = torch.cuda.get_device_properties(device)
    return Card(about.name, about.total_memory, has_bfloat16())


def open_sampler(cfg: Config, tokenizer: Any, *, temperature: float) -> NativeSampler:
    sampling = Sampling(temperature, cfg.rollout.max_completion_tokens, cfg.rollout.max_rows)
    return NativeSampler(tokenizer, cfg.model.template.opening, sampling)
