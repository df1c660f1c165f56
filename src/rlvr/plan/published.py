"""The published figures for Llama-3.1-8B, and the formulas that give those of them that can be derived.

https://unsloth.ai/blog/grpo, 20 February 2025: QLoRA, sequences of 20K tokens, 8 completions for each prompt, next to
"the standard implementation with FlashAttention 2". Two things to know when comparing: all eight sequences are in one
micro-batch, and the KV cache is that of one sequence. Figures that are called GB there are GiB, but for the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlvr.plan.predict import Prediction, predict
from rlvr.plan.settings import Choice, PlanSettings
from rlvr.plan.shapes import Shape

CONTEXT = 20 * 1024
COMPLETIONS = 8


@dataclass(frozen=True)
class Published:
    """A row of the published table, in its own unit."""

    name: str
    standard: float
    best: float


TABLE = (
    Published("training", 414.0, 42.0),
    Published("logits of GRPO", 78.3, 9.8),
    Published("weights for inference", 16.0, 0.0),
    Published("KV cache of 20K tokens", 2.5, 2.5),
    Published("total", 510.8, 54.33),
)


def standard_logits_bytes(shape: Shape, *, completions: int, context: int) -> int:
    """Logits of the standard implementation: two copies of [completions, context, vocabulary] in 16 bit."""
    return 2 * 2 * completions * context * shape.vocab_size


def standard_weights_bytes(shape: Shape) -> int:
    """A second copy of the weights for inference, in 16 bit."""
    return 2 * shape.parameters()


def ours(
    shape: Shape, settings: PlanSettings, *, sequences: int, kv_sequences: int
) -> tuple[tuple[int, ...], Prediction]:
    """The rows of TABLE in bytes for this project, and the whole prediction, at the published context.

    `sequences` of a micro-batch and `kv_sequences` are 8 and 1 in the published accounting. Layer inputs are offloaded.
    The rows are added up as published; they do not exist at the same time, the prediction's peaks say what is.
    """
    long = replace(settings, completions=COMPLETIONS, prompt_tokens=0, completion_tokens=CONTEXT)
    choice = Choice(
        sequences=sequences, share_prompts=True, offload=True, tile_rows=4096, head_rows=1024,
        kv_sequences=kv_sequences, states_on_host=False,
    )  # fmt: skip
    prediction = predict(shape, long, choice)
    training = prediction.allocated_bytes("backward")
    head = prediction.allocated_bytes("head") - prediction.allocated_bytes("optimizer")
    kv = kv_sequences * CONTEXT * shape.kv_bytes_per_token(settings.weight_bytes)
    return (training, head, 0, kv, training + head + kv), prediction


def rule_of_thumb(shape: Shape) -> str:
    """The rule that people use, printed next to a plan: QLoRA needs a GB for each billion, 16-bit LoRA four."""
    billions = shape.parameters() / 1e9
    return (
        f"rule of thumb: {billions:.1f} GB for QLoRA (1 GB per billion weights), {4 * billions:.1f} GB for 16-bit "
        "LoRA, whatever the context"
    )
