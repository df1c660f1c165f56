"""Policies from a folder, loaded as a stage with the settings of a test would load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvr.config import Config, load_config
from rlvr.memory.views import Views
from rlvr.model import scratch
from rlvr.model.policy import Policy, for_training, load_policy, load_tokenizer
from rlvr.model.source import Source
from rlvr.problems import tables
from rlvr.stages.opening import open_policy
from rlvr.stages.quantization import kept_layers
from rlvr.stages.resolve import resolve, resolve_training


def load(
    cfg: Config, model: Path | Source, tokenizer: Any = None, *, start: Path | None = None, base: Views | None = None
) -> Policy:
    """The model in a folder; its own tokenizer unless another is given."""
    source = model if isinstance(model, Source) else Source(str(model), None, None)
    resolved = resolve(cfg)
    return load_policy(
        source, tokenizer or load_tokenizer(Path(source.name)), device=resolved.device, dtype=resolved.dtype,
        lora=resolved.lora, start=start, nf4_except=() if resolved.is_quantized else None, base=base,
    )  # fmt: skip


def trained_as(cfg: Config, policy: Policy) -> Policy:
    """`policy` with section memory of `cfg` applied."""
    resolved = resolve_training(cfg)
    return for_training(
        policy, tile_rows=resolved.tile_rows, offload=resolved.offload, keep_attention=resolved.keep_attention,
        kernels=resolved.kernels, logit_chunk_rows=resolved.logit_chunk_rows,
    )  # fmt: skip


def save_scratch(cfg: Config, tokenizer: Any, folder: Path) -> None:
    """The model of model.scratch, as prepare writes it."""
    shape = scratch.ScratchShape(**cfg.model.scratch.model_dump())
    longest = cfg.prepare.max_prompt_tokens + cfg.rollout.max_completion_tokens
    scratch.save_model(shape, tokenizer, folder, max_tokens=longest, seed=cfg.compute.seed)


def prepared_policy(*, start: Path | None) -> Policy:
    """The prepared model of the project in this folder, with the weights in `start`."""
    cfg, source = load_config(), Source.read(tables.BASE)
    return open_policy(resolve(cfg), source, load_tokenizer(tables.BASE), None, start=start, kept=kept_layers(cfg))
