"""The model, tokenizer and sampler that several stages put together in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvr import prepared
from rlvr.config import Config
from rlvr.policy import Policy, load_policy, load_tokenizer
from rlvr.sampler import NativeSampler, Sampling
from rlvr.source import Source


def open_policy(cfg: Config, *, start: Path | None) -> tuple[Policy, Any]:
    """The policy, moved on to the weights in `start` if there are any, and the tokenizer of the prepared data."""
    tokenizer = load_tokenizer(prepared.BASE)
    return load_policy(cfg, Source.read(prepared.BASE), tokenizer, start=start), tokenizer


def open_sampler(cfg: Config, tokenizer: Any, *, temperature: float) -> NativeSampler:
    sampling = Sampling(temperature, cfg.rollout.max_completion_tokens, cfg.rollout.max_rows)
    return NativeSampler(tokenizer, cfg.model.template.opening, sampling)
