"""What a run plans before it loads any weights, from params.yaml and the model's config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from rlvr.config import Config
from rlvr.logprob.fused import rows_within
from rlvr.model.device import has_bfloat16
from rlvr.model.resolved import Resolved, ResolvedTraining
from rlvr.model.source import Source, config_file
from rlvr.plan.cards import Card, this_host
from rlvr.plan.planner import Plan
from rlvr.plan.run_settings import RunSettings, plan_run, plan_sampling_run
from rlvr.plan.settings import DRIVER_BYTES, PlanSettings
from rlvr.plan.shapes import Shape, all_shapes, read_shape
from rlvr.problems import tables
from rlvr.types import Prompt


def plan_grpo(
    cfg: Config, resolved: ResolvedTraining, prompts: Sequence[Prompt], *, step: Mapping[str, Any] | None = None
) -> Plan:
    """The plan of a step of GRPO: the largest there can be, or one like `step`, a line of the log.

    Raises UserError as plan_training does.
    """
    completions = cfg.grpo.completions_per_prompt
    groups = cfg.grpo.prompts_per_step if step is None else max(1, cfg.grpo.prompts_per_step - step["groups/skipped"])
    return plan_training(
        cfg, resolved, prompts, completions=completions, at_once=groups * completions,
        minibatch=max(1, groups * completions // cfg.grpo.minibatches_per_rollout), has_reference=cfg.grpo.beta > 0,
        lengths=None if step is None else (step["prompt/mean_length"], step["completion/mean_length"]),
    )  # fmt: skip


def plan_training(
    cfg: Config,
    resolved: ResolvedTraining,
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
    copy of what is trained is kept, too. `lengths` are tokens of a prompt and of a completion: without them, the
    longest there can be. Raises UserError where only other settings than those of the run fit.
    """
    shape = read_shape(config_file(Source.read(tables.BASE)))
    settings = training_settings(
        cfg, resolved, prompt_tokens=_longest(prompts), completions=completions, at_once=at_once,
        has_reference=has_reference,
    )  # fmt: skip
    if lengths is not None:
        settings = replace(settings, prompt_tokens=round(lengths[0]), completion_tokens=round(lengths[1]))
    run = run_settings(cfg, resolved, shape, minibatch=minibatch)
    return plan_run(shape, settings, run, card_of(resolved.device), all_shapes())


def plan_sampling(
    cfg: Config, resolved: Resolved, source: Source, prompts: Sequence[Prompt], *, completions: int
) -> Plan:
    """The plan of sampling `completions` of each prompt from the model `source`, without training."""
    shape = read_shape(config_file(source))
    settings = sampling_settings(
        cfg, resolved, prompt_tokens=_longest(prompts), completions=completions, at_once=completions * len(prompts)
    )
    return plan_sampling_run(shape, settings, cfg.rollout.max_rows, card_of(resolved.device), all_shapes())


def training_settings(
    cfg: Config,
    resolved: ResolvedTraining,
    *,
    prompt_tokens: int,
    completions: int,
    at_once: int,
    has_reference: bool,
) -> PlanSettings:
    """What a run that trains asks the planner for."""
    sampling = sampling_settings(cfg, resolved, prompt_tokens=prompt_tokens, completions=completions, at_once=at_once)
    return replace(
        sampling,
        has_reference=has_reference,
        optimizer=cfg.memory.optimizer,
        states_on_host=resolved.states_on_host,
    )


def sampling_settings(
    cfg: Config, resolved: Resolved, *, prompt_tokens: int, completions: int, at_once: int
) -> PlanSettings:
    """What a run that only samples asks for; what only training has is empty."""
    return PlanSettings(
        method="full" if resolved.lora is None else "lora",
        quantization="nf4" if resolved.is_quantized else "none",
        rank=cfg.model.lora.rank,
        weight_bytes=resolved.dtype.itemsize,
        optimizer="adamw",
        completions=completions,
        completions_per_step=at_once,
        prompt_tokens=prompt_tokens,
        completion_tokens=cfg.rollout.max_completion_tokens,
        has_reference=False,
        engine="vllm" if resolved.has_engine else "native",
        shares_weights=resolved.shares_weights,
        has_fp8_cache=resolved.has_engine and cfg.rollout.vllm.kv_cache_dtype == "fp8",
        recompute="tiles",
        is_cuda=resolved.is_cuda,
        host_bytes=this_host().memory_bytes,
        kept_share=cfg.model.dynamic_share if cfg.model.quantization == "nf4-dynamic" else 0.0,
        states_on_host=None,
    )


def run_settings(cfg: Config, resolved: ResolvedTraining, shape: Shape, *, minibatch: int) -> RunSettings:
    """What params.yaml says of memory, with `minibatch` completions in an optimizer step."""
    return RunSettings(
        tokens_per_micro_batch=cfg.memory.tokens_per_micro_batch,
        share_prompts=cfg.memory.share_prompts != "off" and not shape.is_recurrent,
        tile_rows=resolved.tile_rows,
        offload=resolved.offload,
        keep_attention=resolved.keep_attention,
        head_rows=resolved.logit_chunk_rows or rows_within(shape.vocab_size, resolved.device),
        max_rows=cfg.rollout.max_rows,
        minibatch=minibatch,
    )


def card_of(device: torch.device) -> Card:
    """The memory that a run on `device` has: what other programs hold of the card now is not counted."""
    if device.type != "cuda":
        return this_host()
    free, total = torch.cuda.mem_get_info(device)
    others = max(total - free - torch.cuda.memory_reserved(device) - DRIVER_BYTES, 0)
    return Card(torch.cuda.get_device_name(device), total - others, has_bfloat16())


def _longest(prompts: Sequence[Prompt]) -> int:
    return max(len(prompt.tokens) for prompt in prompts)
