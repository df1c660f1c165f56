"""Sections sft, rollout, grpo, memory, evaluate and report."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rlvr.config.base import Momentum, NonNegative, Positive, Rate, Section, Share
from rlvr.types import AdvantageMethod, Correction, LossType, OptimizerKind, Schedule, SharePrompts, clip_high

VLLM_TEMPERATURES = (0.01, 2.0)  # a lower one it raises by itself, a higher one it refuses


class Sft(Section):
    enabled: bool
    max_steps: Positive
    batch_size: Positive
    learning_rate: Rate
    warmup_steps: Annotated[int, Field(ge=0)]
    beta2: Momentum
    weight_decay: NonNegative
    max_grad_norm: Rate
    check_every: Positive
    stop_accuracy: Share | None
    stop_format_rate: Share | None


def _auto_or_positive(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and value != "auto" and not (is_number and value > 0):
        raise ValueError(f"{value!r} is neither auto, null nor a number above 0")
    return value


class Vllm(Section):
    share_weights: Literal["auto", "off"]
    kv_cache_gib: Rate | None
    kv_cache_dtype: Literal["auto", "fp8"]
    head_dtype: Literal["auto", "float32"]
    enforce_eager: Literal["auto", "on", "off"]


class Rollout(Section):
    sampler: Literal["native", "vllm"]
    temperature: Rate
    max_completion_tokens: Positive
    max_rows: Positive
    max_logp_gap: Annotated[float | Literal["auto"] | None, BeforeValidator(_auto_or_positive)]
    vllm: Vllm

    @model_validator(mode="before")
    @classmethod
    def _full_support(cls, values: Any) -> Any:
        cut = sorted({"top_p", "top_k", "min_p"} & set(values)) if isinstance(values, dict) else []
        if cut:
            raise ValueError(
                f"{', '.join(cut)}: sampling from a part of the distribution is refused, because the loss is about all "
                "of it: log-probabilities of sampler and trainer would differ. Lower temperature instead"
            )
        return values


class Grpo(Section):
    steps: Annotated[int, Field(ge=0)] | None
    epochs: Positive | None
    prompts_per_step: Positive
    completions_per_prompt: Annotated[int, Field(ge=2)]
    minibatches_per_rollout: Positive
    passes_per_rollout: Positive
    learning_rate: Rate
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Schedule
    beta1: Momentum
    beta2: Momentum
    weight_decay: NonNegative
    max_grad_norm: Rate
    loss_type: LossType
    epsilon: Annotated[float, Field(gt=0.0, lt=1.0)]
    epsilon_high: Rate | None
    delta: Rate | None
    beta: NonNegative
    kl_unbiased: bool
    importance_correction: Correction
    importance_min: Annotated[float, Field(gt=0.0, le=1.0)] | None
    importance_max: Annotated[float, Field(ge=1.0)]
    entropy_bonus: NonNegative
    advantage: AdvantageMethod
    scale_rewards: Literal["group", "batch", "none"]
    dynamic_sampling: Annotated[int, Field(ge=0)]
    mask_truncated_completions: bool
    max_unscorable: Share
    checkpoint_every: Positive
    log_completions_every: Positive

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            steps, epochs = ("null" if value is None else value for value in (self.steps, self.epochs))
            raise ValueError(f"set exactly one of steps ({steps}) and epochs ({epochs}); the other is null")
        if self.prompts_per_step % self.minibatches_per_rollout:
            raise ValueError(
                f"minibatches_per_rollout {self.minibatches_per_rollout} must divide prompts_per_step "
                f"{self.prompts_per_step}: a group is never split over optimizer steps"
            )
        if self.loss_type == "cispo" and (self.epsilon_high is None or self.epsilon_high < 1.0):
            raise ValueError(
                f"with loss_type cispo, epsilon_high ({self.epsilon_high}) is an absolute cap on the ratio "
                "and must be at least 1, for example 5.0"
            )
        largest = 1.0 + clip_high(self.epsilon, self.epsilon_high)
        if self.delta is not None and self.delta < largest:
            raise ValueError(f"delta {self.delta} must be at least 1 + epsilon_high = {largest:g}, or null")
        return self


class Memory(Section):
    tokens_per_micro_batch: Positive
    share_prompts: SharePrompts
    tile_rows: Positive | None
    offload: Literal["auto", "on", "off"]
    keep_attention: Literal["on", "off"]
    kernels: Literal["auto", "torch", "triton"]
    logit_chunk_rows: Positive | None
    optimizer: OptimizerKind
    optimizer_on_host: Literal["auto", "on", "off"]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.offload == "on" and self.tile_rows is None:
            raise ValueError(
                "offload on moves the inputs of layers that are recomputed in tiles: set tile_rows, for example 2048"
            )
        if self.keep_attention == "on" and self.tile_rows is None:
            raise ValueError("keep_attention on is for layers that are recomputed: set tile_rows, for example 2048")
        return self


class Evaluate(Section):
    samples_per_problem: Positive
    temperature: Rate
    bootstrap_resamples: Positive


class Report(Section):
    examples: Annotated[int, Field(ge=0)]
