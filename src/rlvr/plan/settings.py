"""What the user asks for, what the planner may choose, and the amounts that are assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlvr.plan.cards import GIB
from rlvr.types import OptimizerKind, UserError

Method = Literal["full", "lora"]
Quantization = Literal["none", "nf4"]
Engine = Literal["native", "vllm"]
Recompute = Literal["tiles", "layer", "none"]  # the feed-forward in tiles, the layer in one piece, nothing

NF4_BLOCK = 64  # weights that share a scale
NF4_NESTED_BLOCK = 256  # scales that share a scale, in double quantisation
NF4_BYTES = 0.5 + 1 / NF4_BLOCK + 4 / (NF4_BLOCK * NF4_NESTED_BLOCK)  # 0.5159 for each weight
STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}  # 8 bit: a float32 scale for 256 values

# Assumed, not derived; docs/decisions/0008 says where from and what will replace them by measurement.
DRIVER_BYTES = round(0.6 * GIB)  # CUDA context, kernels, cuBLAS workspaces
ENGINE_BYTES = {"native": 0, "vllm": 1 * GIB}  # CUDA graphs and the activations of a profiling run
SLACK = 0.08  # of what comes and goes: memory that the allocator holds and cannot hand out


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """The run to plan, in plain numbers.

    A sequence is `prompt_tokens` + `completion_tokens` long. `weight_bytes` is the size of an unquantised weight and of
    an activation: 2 or 4. `has_reference`: a frozen copy of what is trained is kept for the KL term. `shares_weights`:
    the engine samples with the trainer's weights, as the native sampler always does. `has_fp8_cache`: the engine keeps
    keys and values in 8 bits. `host_bytes` bounds the host's memory; None does not. `kept_share` of the 4-bit weights'
    bytes is added for layers that stay in 16 bits. `states_on_host`: between steps the optimizer's states are on the
    host; None lets the planner choose.
    """

    method: Method
    quantization: Quantization
    rank: int
    weight_bytes: int
    optimizer: OptimizerKind
    completions: int
    completions_per_step: int
    prompt_tokens: int
    completion_tokens: int
    has_reference: bool
    engine: Engine
    shares_weights: bool
    has_fp8_cache: bool
    recompute: Recompute
    is_cuda: bool
    host_bytes: int | None
    kept_share: float
    states_on_host: bool | None

    @property
    def context(self) -> int:
        """Tokens of one sequence."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cached_bytes(self) -> int:
        """Bytes of a number in the rollout's cache of keys and values."""
        return 1 if self.has_fp8_cache else self.weight_bytes


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What changes the peak and not the result.

    `sequences` completions in a micro-batch, and `share_prompts` where their group is larger: its prompt is computed
    once, and not with each micro-batch; `kv_sequences` completions generated at once; `head_rows` tokens whose
    logits exist at once; `tile_rows` tokens that go through the feed-forward at once. `keep_attention`: output and
    log-sum-exp of attention wait where the inputs of the layers do, and are not computed again.
    """

    sequences: int
    share_prompts: bool
    offload: bool
    tile_rows: int
    head_rows: int
    kv_sequences: int
    states_on_host: bool
    keep_attention: bool = False


def input_tokens(settings: PlanSettings, choice: Choice) -> int:
    """Tokens of the largest pass of a micro-batch: its completions and their prompts, each once for its group.

    A prompt that completions of several micro-batches share gets its own pass.
    """
    answers = choice.sequences * settings.completion_tokens
    if shares_prompt(settings, choice):
        return max(settings.prompt_tokens, answers)
    return group_tokens(settings, choice.sequences)


def answer_pass_tokens(settings: PlanSettings, choice: Choice) -> int:
    """Tokens of the pass of a micro-batch's completions."""
    if shares_prompt(settings, choice):
        return choice.sequences * settings.completion_tokens
    return group_tokens(settings, choice.sequences)


def group_tokens(settings: PlanSettings, sequences: int) -> int:
    """Tokens of so many completions and of their prompts, each once for its group."""
    return -(-sequences // settings.completions) * settings.prompt_tokens + sequences * settings.completion_tokens


def shares_prompt(settings: PlanSettings, choice: Choice) -> bool:
    """Whether a group is larger than a micro-batch and its prompt computed once."""
    return choice.share_prompts and choice.sequences < settings.completions


def check(settings: PlanSettings) -> None:
    """Raises UserError for values that contradict each other or make no sense."""
    for key in ("rank", "completions", "completions_per_step", "prompt_tokens", "completion_tokens"):
        if getattr(settings, key) < (least := 0 if key == "prompt_tokens" else 1):
            raise UserError(f"{key} is {getattr(settings, key)}; it must be {least} or more")
    if settings.weight_bytes not in (2, 4):
        raise UserError(f"weight_bytes is {settings.weight_bytes}; weights have 2 bytes (bfloat16, float16) or 4")
    if settings.has_fp8_cache and settings.engine == "native":
        raise UserError("keys and values in fp8 need the engine vllm: the native one keeps them as the weights are")
    if settings.method == "full" and settings.quantization != "none":
        raise UserError("4-bit weights cannot be trained: use a LoRA adapter on them, or no quantization")
