"""What a stage runs on, with every "auto" that depends on the machine settled: plan and run read the same value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter over frozen weights; a new one is drawn from `seed`."""

    rank: int
    alpha: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Where the model lies and what samples from it.

    `dtype` is the type of the weights; `lora` None: all of them are trained. `is_quantized`: the frozen ones are in 4
    bits. `has_engine`: vLLM samples; it does so from the trainer's own frozen weights with `shares_weights`, and
    without compiling when `is_eager`.
    """

    device: torch.device
    dtype: torch.dtype
    lora: Lora | None
    is_quantized: bool
    has_engine: bool
    shares_weights: bool
    is_eager: bool

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True, kw_only=True)
class ResolvedTraining(Resolved):
    """The same for a stage that trains.

    `tile_rows` None: no layer is recomputed. `offload`: layers that are recomputed keep their inputs in the host's
    memory; with `keep_attention` what their attention gave waits in the same place. `states_on_host`: the optimizer
    keeps its states in the host's memory between steps. `kernels` and `logit_chunk_rows` choose how head and loss are
    computed. The run stops where sampler and trainer are more than `max_logp_gap` nats apart.
    """

    tile_rows: int | None
    offload: bool
    keep_attention: bool
    states_on_host: bool
    kernels: Literal["torch", "triton"]
    logit_chunk_rows: int | None
    max_logp_gap: float
