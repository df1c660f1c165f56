"""The model, tokenizer and sampler that several stages put together in the same way."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rlvr.chat import opening_of
from rlvr.config import Config
from rlvr.model.device import dtype_name
from rlvr.model.policy import Policy, for_training, load_policy, load_tokenizer
from rlvr.model.resolved import Resolved, ResolvedTraining
from rlvr.model.source import Source, config_file
from rlvr.plan.cards import GIB
from rlvr.plan.command import demand
from rlvr.plan.planner import Plan, engine_cache_bytes
from rlvr.plan.shapes import read_shape
from rlvr.problems import tables
from rlvr.runtime.messages import note
from rlvr.runtime.meter import Meter
from rlvr.runtime.vllm_versions import Wanted, check_engine, installed
from rlvr.sampler import EngineSettings, NativeSampler, Sampler, Sampling, VllmSampler, start_engine
from rlvr.sampler.probe import check_native
from rlvr.stages.quantization import decide, kept_layers
from rlvr.types import UserError


def open_policy(
    resolved: Resolved,
    source: Source,
    tokenizer: Any,
    sampler: Sampler | None,
    *,
    start: Path | None,
    kept: Collection[str],
) -> Policy:
    """The policy with the weights in `start`, on those of the sampler's engine where it shares them.

    The layers in `kept` stay out of 4 bits.
    """
    policy = load_policy(
        source, tokenizer, device=resolved.device, dtype=resolved.dtype, lora=resolved.lora, start=start,
        nf4_except=kept if resolved.is_quantized else None,
        base=None if sampler is None else sampler.base_tensors(),
    )  # fmt: skip
    if isinstance(sampler, NativeSampler):
        check_native(policy, name=source.name)
    return policy


@contextmanager
def open_trainee(
    cfg: Config, resolved: ResolvedTraining, plan: Plan, *, start: Path | None, meter: Meter | None = None
) -> Iterator[tuple[Policy, Any, Sampler]]:
    """The policy, ready for training, the tokenizer of the prepared data, and the sampler, which comes first.

    Without `start` it is the first to load the model, and so it chooses what nf4-dynamic keeps. Raises UserError, with
    the plan, before any weights are loaded when no way of training it fits.
    """
    source = Source.read(tables.BASE)
    check_sampler(cfg, resolved, source)
    demand(plan)
    if start is None:
        decide(cfg, resolved)
    tokenizer = load_tokenizer(tables.BASE)
    with ExitStack() as stack:
        sampler = open_sampler(cfg, resolved, source, tokenizer, plan, temperature=cfg.rollout.temperature)
        stack.callback(sampler.close)
        with meter.phase("load") if meter else nullcontext():
            policy = open_policy(resolved, source, tokenizer, sampler, start=start, kept=kept_layers(cfg))
            if meter:
                meter.count(policy.model.parameters())
        policy = for_training(
            policy, tile_rows=resolved.tile_rows, offload=resolved.offload, keep_attention=resolved.keep_attention,
            kernels=resolved.kernels, logit_chunk_rows=resolved.logit_chunk_rows,
        )  # fmt: skip
        yield policy, tokenizer, sampler


def open_sampler(
    cfg: Config, resolved: Resolved, source: Source, tokenizer: Any, plan: Plan, *, temperature: float
) -> Sampler:
    """The rollout engine of `rollout.sampler` on the model `source`, for the sequences and the memory of the plan.

    The caller closes it.

    Raises UserError when an option is not possible on the device, or the engine with what is installed.
    """
    sampling = Sampling(temperature, cfg.rollout.max_completion_tokens, cfg.rollout.max_rows)
    opening = opening_of(cfg.model.template, tokenizer).given
    if not resolved.has_engine:
        return NativeSampler(tokenizer, opening, sampling)
    for text in check_sampler(cfg, resolved, source):
        note(text)
    settings = engine_settings(cfg, resolved, source, plan)
    compiles = "" if settings.is_eager else ", and compiles it, which takes minutes the first time"
    note(f"vLLM starts and loads {source.name}{compiles}")
    llm = start_engine(settings)
    sampler = VllmSampler(llm, tokenizer, opening, sampling, settings.is_cuda, is_shared=settings.is_shared)
    sampler.release()
    return sampler


def check_sampler(cfg: Config, resolved: Resolved, source: Source) -> list[str]:
    """What to tell of the versions that `rollout.sampler` needs.

    Raises UserError where they cannot work, or the engine not with the other settings.
    """
    if not resolved.has_engine:
        return []
    if resolved.device.type == "mps":
        raise UserError("rollout.sampler vllm runs on cuda and cpu, not on mps: use compute.device cpu, or native")
    if cfg.rollout.vllm.kv_cache_dtype == "fp8" and not resolved.is_cuda:
        raise UserError(f"rollout.vllm.kv_cache_dtype fp8 needs a GPU, and this run is on {resolved.device}: use auto")
    if resolved.is_cuda and resolved.lora is not None and dtype_name(resolved.dtype) == "float32":
        raise UserError(
            "rollout.sampler vllm computes adapters in 16 bits on a GPU, and compute.dtype is float32: use bfloat16, "
            "or rollout.sampler native"
        )
    if cfg.model.quantization == "nf4-dynamic":
        raise UserError(
            "rollout.sampler vllm puts all layers in 4 bits, and model.quantization nf4-dynamic leaves some in 16: the "
            "engine would sample from another model; use nf4, or rollout.sampler native"
        )
    head_size = read_shape(config_file(source)).head_dim
    needs = Wanted(is_cuda=resolved.is_cuda, is_nf4=resolved.is_quantized, head_size=head_size)
    return check_engine(needs, installed(), sys.platform)


def engine_settings(cfg: Config, resolved: Resolved, source: Source, plan: Plan) -> EngineSettings:
    """The engine that `rollout` asks for, with the cache that the plan leaves room for."""
    options = cfg.rollout.vllm
    planned_bytes = engine_cache_bytes(plan, rows=cfg.rollout.max_rows)
    return EngineSettings(
        model=source.name,
        revision=source.revision,
        dtype=dtype_name(resolved.dtype),
        quantization="nf4" if resolved.is_quantized else "none",
        lora_rank=None if resolved.lora is None else resolved.lora.rank,
        max_sequence_tokens=plan.settings.context,
        max_rows=cfg.rollout.max_rows,
        kv_cache_bytes=planned_bytes if options.kv_cache_gib is None else round(options.kv_cache_gib * GIB),
        kv_cache_dtype=options.kv_cache_dtype,
        head_dtype=options.head_dtype,
        is_eager=resolved.is_eager,
        is_cuda=resolved.is_cuda,
        is_shared=resolved.shares_weights,
    )
