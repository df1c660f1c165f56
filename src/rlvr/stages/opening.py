"""The model, tokenizer and sampler that several stages put together in the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rlvr.config import Config
from rlvr.model.policy import Policy, device_of, dtype_of, for_training, load_policy, load_tokenizer
from rlvr.model.source import Source, config_file
from rlvr.plan.cards import GIB
from rlvr.plan.command import demand
from rlvr.plan.kv_cache import engine_cache_bytes
from rlvr.plan.planner import Plan
from rlvr.plan.shapes import read_shape
from rlvr.problems import tables
from rlvr.runtime.messages import note
from rlvr.runtime.meter import Meter
from rlvr.runtime.vllm_versions import Wanted, check_engine, installed
from rlvr.sampler import EngineSettings, NativeSampler, Sampler, Sampling, VllmSampler, start_engine
from rlvr.stages.planning import is_shared
from rlvr.stages.quantization import decide, kept_layers
from rlvr.types import UserError


def open_policy(cfg: Config, tokenizer: Any, sampler: Sampler | None, *, start: Path | None) -> Policy:
    """The policy, on the weights of the sampler's engine where it shares them, moved on to those in `start`."""
    base = None if sampler is None else sampler.base_tensors()
    source = Source.read(tables.BASE)
    return load_policy(cfg, source, tokenizer, start=start, keep=kept_layers(cfg), base=base)


@contextmanager
def open_trainee(
    cfg: Config, made: Plan, *, start: Path | None, meter: Meter | None = None
) -> Iterator[tuple[Policy, Any, Sampler]]:
    """The policy, ready for training, the tokenizer of the prepared data, and the sampler, which comes first.

    Without `start` it is the first to load the model, and so it chooses what nf4-dynamic keeps. Raises UserError, with
    the plan, before any weights are loaded when no way of training it fits.
    """
    check_sampler(cfg, Source.read(tables.BASE))
    demand(made)
    if start is None:
        decide(cfg)
    tokenizer = load_tokenizer(tables.BASE)
    with ExitStack() as stack:
        sampler = open_sampler(cfg, Source.read(tables.BASE), tokenizer, made, temperature=cfg.rollout.temperature)
        stack.callback(sampler.close)
        with meter.phase("load") if meter else nullcontext():
            policy = open_policy(cfg, tokenizer, sampler, start=start)
            if meter:
                meter.count(policy.model.parameters())
        yield for_training(policy, cfg.memory), tokenizer, sampler


def open_sampler(cfg: Config, source: Source, tokenizer: Any, made: Plan, *, temperature: float) -> Sampler:
    """The rollout engine of `rollout.sampler` on the model `source`, for the sequences and the memory of the plan.

    The caller closes it.

    Raises UserError when an option is not possible on the device, or the engine with what is installed.
    """
    sampling = Sampling(temperature, cfg.rollout.max_completion_tokens, cfg.rollout.max_rows)
    opening = cfg.model.template.opening
    if cfg.rollout.sampler == "native":
        return NativeSampler(tokenizer, opening, sampling)
    for text in check_sampler(cfg, source):
        note(text)
    settings = engine_settings(cfg, source, made)
    llm = start_engine(settings)
    sampler = VllmSampler(llm, tokenizer, opening, sampling, settings.is_cuda, is_shared=settings.is_shared)
    sampler.release()
    return sampler


def check_sampler(cfg: Config, source: Source) -> list[str]:
    """What to tell of the versions that `rollout.sampler` needs.

    Raises UserError where they cannot work, or the engine not with the other settings.
    """
    if cfg.rollout.sampler == "native":
        return []
    device = device_of(cfg)
    if device.type == "mps":
        raise UserError("rollout.sampler vllm runs on cuda and cpu, not on mps: take compute.device cpu, or native")
    if cfg.rollout.vllm.kv_cache_dtype == "fp8" and device.type != "cuda":
        raise UserError(f"rollout.vllm.kv_cache_dtype fp8 needs a GPU, and this run is on {device}: take auto")
    if cfg.model.quantization == "nf4-dynamic":
        raise UserError(
            "rollout.sampler vllm puts all layers in 4 bits, and model.quantization nf4-dynamic leaves some in 16: the "
            "engine would sample from another model; take nf4, or rollout.sampler native"
        )
    wanted = Wanted(
        is_cuda=device.type == "cuda",
        is_nf4=cfg.model.quantization == "nf4",
        head_size=read_shape(config_file(source)).head_dim,
    )
    return check_engine(wanted, installed(), sys.platform)


def engine_settings(cfg: Config, source: Source, made: Plan) -> EngineSettings:
    """The engine that `rollout` asks for, with the cache that the plan leaves room for."""
    options, device = cfg.rollout.vllm, device_of(cfg)
    planned_bytes = engine_cache_bytes(made, rows=cfg.rollout.max_rows)
    return EngineSettings(
        model=source.name,
        revision=source.revision,
        dtype=str(dtype_of(cfg)).removeprefix("torch."),
        quantization="none" if cfg.model.quantization == "none" else "nf4",
        lora_rank=cfg.model.lora.rank if cfg.model.adapter == "lora" else None,
        max_sequence_tokens=made.settings.context,
        max_rows=cfg.rollout.max_rows,
        kv_cache_bytes=planned_bytes if options.kv_cache_gib is None else round(options.kv_cache_gib * GIB),
        kv_cache_dtype=options.kv_cache_dtype,
        head_dtype=options.head_dtype,
        is_eager=options.enforce_eager == "on" or (options.enforce_eager == "auto" and device.type != "cuda"),
        is_cuda=device.type == "cuda",
        is_shared=is_shared(cfg),
    )
