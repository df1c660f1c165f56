"""The model, tokenizer and sampler that several stages put together in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from rlvr import prepared
from rlvr.config import Config
from rlvr.logprob.fused import rows_within
from rlvr.memory.cards import GIB, Card, this_host
from rlvr.memory.command import demand
from rlvr.memory.kv_cache import engine_cache_bytes
from rlvr.memory.own import Own, hold, hold_sampling
from rlvr.memory.planner import Plan
from rlvr.memory.settings import Settings
from rlvr.memory.shapes import all_shapes, read_shape
from rlvr.memory.states import waits_on_host
from rlvr.meter import Meter
from rlvr.policy import (
    Policy,
    device_of,
    dtype_of,
    for_training,
    has_bfloat16,
    load_policy,
    load_tokenizer,
    offloads,
)
from rlvr.sampler import EngineSettings, NativeSampler, Sampler, Sampling, VllmSampler, start_engine
from rlvr.source import Source, config_file
from rlvr.stages.quantization import decide, kept_layers
from rlvr.types import Prompt, UserError


def open_policy(cfg: Config, tokenizer: Any, sampler: Sampler | None, *, start: Path | None) -> Policy:
    """The policy, on the weights of the sampler's engine where it shares them, moved on to those in `start`."""
    base = None if sampler is None else sampler.base_tensors()
    source = Source.read(prepared.BASE)
    return load_policy(cfg, source, tokenizer, start=start, keep=kept_layers(cfg), base=base)


@contextmanager
def open_trainee(
    cfg: Config, made: Plan, *, start: Path | None, meter: Meter | None = None
) -> Iterator[tuple[Policy, Any, Sampler]]:
    """The policy, ready for training, the tokenizer of the prepared data, and the sampler, which comes first.

    Without `start` it is the first to load the model, and so it chooses what nf4-dynamic keeps. Raises UserError, with
    the plan, before any weights are loaded when no way of training it fits.
    """
    demand(made)
    if start is None:
        decide(cfg)
    tokenizer = load_tokenizer(prepared.BASE)
    with ExitStack() as stack:
        with meter.phase("load") if meter else nullcontext():
            sampler = open_sampler(
                cfg, Source.read(prepared.BASE), tokenizer, made, temperature=cfg.rollout.temperature
            )
            stack.callback(sampler.close)
            policy = open_policy(cfg, tokenizer, sampler, start=start)
            if meter:
                meter.count(policy.model.parameters())
        yield for_training(policy, cfg.memory), tokenizer, sampler


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
        quantization="none" if cfg.model.quantization == "none" else "nf4",
        rank=cfg.model.lora.rank,
        weight_bytes=dtype_of(cfg).itemsize,
        optimizer=cfg.memory.optimizer,
        completions=completions,
        completions_per_step=at_once,
        prompt_tokens=max(len(prompt.tokens) for prompt in prompts),
        completion_tokens=cfg.rollout.max_completion_tokens,
        has_reference=has_reference,
        engine=cfg.rollout.sampler,
        shares_weights=cfg.rollout.sampler == "native" or is_shared(cfg),
        recompute="tiles",
        is_cuda=device.type == "cuda",
        host_bytes=this_host().memory_bytes,
        kept_share=cfg.model.dynamic_share if cfg.model.quantization == "nf4-dynamic" else 0.0,
        states_on_host=waits_on_host(cfg.memory.optimizer_on_host, device),
    )


def card_of(device: torch.device) -> Card:
    """The memory that a run on `device` has."""
    if device.type != "cuda":
        return this_host()
    about = torch.cuda.get_device_properties(device)
    return Card(about.name, about.total_memory, has_bfloat16())


def open_sampler(cfg: Config, source: Source, tokenizer: Any, made: Plan, *, temperature: float) -> Sampler:
    """The rollout engine of `rollout.sampler` on the model `source`, for the sequences and the memory of the
    plan; the caller closes it.

    Raises UserError when an option is not possible on the device.
    """
    sampling = Sampling(temperature, cfg.rollout.max_completion_tokens, cfg.rollout.max_rows)
    opening = cfg.model.template.opening
    if cfg.rollout.sampler == "native":
        return NativeSampler(tokenizer, opening, sampling)
    settings = engine_settings(cfg, source, made)
    llm = start_engine(settings)
    sampler = VllmSampler(llm, tokenizer, opening, sampling, settings.is_cuda, is_shared=settings.is_shared)
    sampler.release()
    return sampler


def is_shared(cfg: Config) -> bool:
    """Whether the trainer is to use vLLM's copy of the weights: frozen ones, as full fine-tuning moves its own."""
    return cfg.rollout.vllm.share_weights == "auto" and cfg.model.adapter == "lora"


def engine_settings(cfg: Config, source: Source, made: Plan) -> EngineSettings:
    """The engine that `rollout` asks for, with the cache that the plan leaves room for. Raises UserError."""
    options, device = cfg.rollout.vllm, device_of(cfg)
    if device.type == "mps":
        raise UserError("rollout.sampler vllm runs on cuda and cpu, not on mps: take compute.device cpu, or native")
    if options.kv_cache_dtype == "fp8" and device.type != "cuda":
        raise UserError(f"rollout.vllm.kv_cache_dtype fp8 needs a GPU, and this run is on {device}: take auto")
    if cfg.model.quantization == "nf4-dynamic":
        raise UserError(
            "rollout.sampler vllm puts all layers in 4 bits, and model.quantization nf4-dynamic leaves some in 16: the "
            "engine would sample from another model; take nf4, or rollout.sampler native"
        )
    value_bytes = 1 if options.kv_cache_dtype == "fp8" else made.settings.weight_bytes
    planned_bytes = engine_cache_bytes(made, rows=cfg.rollout.max_rows, value_bytes=value_bytes)
    return EngineSettings(
        model=source.name,
        revision=source.revision,
        dtype=str(dtype_of(cfg)).removeprefix("torch."),
        quantization=cfg.model.quantization,
        lora_rank=cfg.model.lora.rank if cfg.model.adapter == "lora" else None,
        max_sequence_tokens=made.settings.context,
        max_rows=cfg.rollout.max_rows,
        kv_cache_bytes=planned_bytes if options.kv_cache_gib is None else round(options.kv_cache_gib * GIB),
        kv_cache_dtype=options.kv_cache_dtype,
        is_eager=options.enforce_eager == "on" or (options.enforce_eager == "auto" and device.type != "cuda"),
        is_cuda=device.type == "cuda",
        is_shared=is_shared(cfg),
    )
