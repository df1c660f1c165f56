"""The model, tokenizer and sampler that several stages put together in the same way."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr import prepared
from rlvr.config import Config
from rlvr.memory.cards import GIB, Card, this_host
from rlvr.memory.command import demand
from rlvr.memory.kv_cache import engine_cache_bytes
from rlvr.memory.planner import Plan, plan
from rlvr.memory.settings import Settings
from rlvr.memory.shapes import all_shapes, read_shape
from rlvr.policy import Policy, device_of, for_training, load_policy, load_tokenizer
from rlvr.sampler import EngineSettings, NativeSampler, Sampler, Sampling, VllmSampler, start_engine
from rlvr.source import Source, config_file
from rlvr.types import Prompt, UserError
from rlvr.versions import Wanted, check_engine, installed


def open_policy(cfg: Config, *, start: Path | None) -> tuple[Policy, Any]:
    """The policy, moved on to the weights in `start` if there are any, and the tokenizer of the prepared data."""
    tokenizer = load_tokenizer(prepared.BASE)
    return load_policy(cfg, Source.read(prepared.BASE), tokenizer, start=start), tokenizer


def open_trainee(
    cfg: Config, prompts: Sequence[Prompt], *, completions: int, has_reference: bool, start: Path | None
) -> tuple[Policy, Any]:
    """open_policy, made ready for training, once its memory is known to suffice.

    Raises UserError, with the plan, before any weights are loaded when no way of training it fits.
    """
    check_sampler(cfg, Source.read(prepared.BASE))
    demand(planned(cfg, Source.read(prepared.BASE), prompts, completions=completions, has_reference=has_reference))
    policy, tokenizer = open_policy(cfg, start=start)
    return for_training(policy, cfg.memory), tokenizer


def planned(cfg: Config, source: Source, prompts: Sequence[Prompt], *, completions: int, has_reference: bool) -> Plan:
    """The plan of a step with `completions` of each prompt, from the model's config.json alone.

    `has_reference`: a frozen copy of what is trained is kept beside it.
    """
    device = device_of(cfg)
    settings = Settings(
        method="lora" if cfg.model.adapter == "lora" else "full",
        quantization=cfg.model.quantization,
        rank=cfg.model.lora.rank,
        weight_bytes={"float32": 4, "bfloat16": 2}[cfg.compute.dtype],
        optimizer="adamw",
        completions=completions,
        prompt_tokens=max(len(prompt.tokens) for prompt in prompts),
        completion_tokens=cfg.rollout.max_completion_tokens,
        has_reference=has_reference,
        engine=cfg.rollout.sampler,
        recompute="tiles",
        is_cuda=device.type == "cuda",
        host_bytes=this_host().memory_bytes,
    )
    return plan(read_shape(config_file(source)), settings, card_of(device), all_shapes())


def card_of(device: torch.device) -> Card:
    """The memory that a run on `device` has."""
    if device.type != "cuda":
        return this_host()
    about = torch.cuda.get_device_properties(device)
    return Card(about.name, about.total_memory, torch.cuda.is_bf16_supported())


def open_sampler(cfg: Config, tokenizer: Any, made: Plan, *, temperature: float) -> Sampler:
    """The rollout engine of `rollout.sampler` for the prepared model; see sampler_for."""
    return sampler_for(cfg, Source.read(prepared.BASE), tokenizer, made, temperature=temperature)


def sampler_for(cfg: Config, source: Source, tokenizer: Any, made: Plan, *, temperature: float) -> Sampler:
    """The rollout engine of `rollout.sampler`, for the sequences and the memory of the plan; the caller closes it.

    Raises UserError when an option is not possible on the device, or the engine with what is installed.
    """
    sampling = Sampling(temperature, cfg.rollout.max_completion_tokens, cfg.rollout.max_rows)
    opening = cfg.model.template.opening
    if cfg.rollout.sampler == "native":
        return NativeSampler(tokenizer, opening, sampling)
    for note in check_sampler(cfg, source):
        print(f"note: {note}", flush=True)
    settings = engine_settings(cfg, source, made)
    sampler = VllmSampler(start_engine(settings), tokenizer, opening, sampling, settings.is_cuda)
    sampler.release()
    return sampler


def check_sampler(cfg: Config, source: Source) -> list[str]:
    """What to tell of the versions that `rollout.sampler` needs. Raises UserError where they cannot work."""
    if cfg.rollout.sampler == "native":
        return []
    wanted = Wanted(
        is_cuda=device_of(cfg).type == "cuda",
        is_nf4=cfg.model.quantization == "nf4",
        head_size=read_shape(config_file(source)).head_dim,
    )
    return check_engine(wanted, installed(), sys.platform)


def engine_settings(cfg: Config, source: Source, made: Plan) -> EngineSettings:
    """The engine that `rollout` asks for, with the cache that the plan leaves room for. Raises UserError."""
    options, device = cfg.rollout.vllm, device_of(cfg)
    if device.type == "mps":
        raise UserError("rollout.sampler vllm runs on cuda and cpu, not on mps: take compute.device cpu, or native")
    if options.kv_cache_dtype == "fp8" and device.type != "cuda":
        raise UserError(f"rollout.vllm.kv_cache_dtype fp8 needs a GPU, and this run is on {device}: take auto")
    value_bytes = 1 if options.kv_cache_dtype == "fp8" else made.settings.weight_bytes
    planned_bytes = engine_cache_bytes(made, rows=cfg.rollout.max_rows, value_bytes=value_bytes)
    return EngineSettings(
        model=source.name,
        revision=source.revision,
        dtype=cfg.compute.dtype,
        quantization=cfg.model.quantization,
        lora_rank=cfg.model.lora.rank if cfg.model.adapter == "lora" else None,
        max_sequence_tokens=made.settings.context,
        max_rows=cfg.rollout.max_rows,
        kv_cache_bytes=planned_bytes if options.kv_cache_gib is None else round(options.kv_cache_gib * GIB),
        kv_cache_dtype=options.kv_cache_dtype,
        is_eager=options.enforce_eager == "on" or (options.enforce_eager == "auto" and device.type != "cuda"),
        is_cuda=device.type == "cuda",
    )
