"""Sampling with vLLM in the trainer's process: a whole step in one continuous batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from rlvr.policy import Policy
from rlvr.sampler.completions import make_completions, stable_seed
from rlvr.sampler.engine import release_cache, resume_cache, stop_engine, without_compiling
from rlvr.sampler.protocol import Sampling
from rlvr.sampler.weights import adapter_request, send_weights
from rlvr.types import Completion, Group, Prompt


@dataclass(frozen=True)
class VllmSampler:
    """`llm` is from start_engine; `opening` is the text that the prompt already gives away of the completion."""

    llm: Any
    tokenizer: Any
    opening: str
    sampling: Sampling
    is_cuda: bool
    policy: list[Policy]
