"""The door: every "auto" that depends on the machine becomes a value here, once; plan and run read that value."""

from __future__ import annotations

from typing import Any

import torch

from rlvr.config import Config
from rlvr.linear import HAS_BFLOAT16
from rlvr.model.device import device_named, dtype_named
from rlvr.model.resolved import Lora, Resolved, ResolvedTraining
from rlvr.runtime.messages import note
from rlvr.training.mismatch import limit_of


def resolve(cfg: Config, *, device: torch.device | None = None) -> Resolved:
    """What `cfg` means on this machine, or on another `device`, of sections compute, model and rollout.

    Raises UserError when torch cannot use compute.device here.
    """
    return Resolved(**_common(cfg, device))


def resolve_training(cfg: Config, *, device: torch.device | None = None) -> ResolvedTraining:
    """`resolve`, and what section memory says of training."""
    common = _common(cfg, device)
    is_cuda = common["device"].type == "cuda"
    return ResolvedTraining(
        **common,
        tile_rows=cfg.memory.tile_rows,
        offload=cfg.memory.tile_rows is not None and _switch(cfg.memory.offload, auto=is_cuda),
        keep_attention=cfg.memory.keep_attention == "on",
        states_on_host=_switch(cfg.memory.optimizer_on_host, auto=is_cuda),
        kernels=("triton" if is_cuda else "torch") if cfg.memory.kernels == "auto" else cfg.memory.kernels,
        logit_chunk_rows=cfg.memory.logit_chunk_rows,
        max_logp_gap=limit_of(cfg.rollout.max_logp_gap, common["dtype"]),
    )


def _common(cfg: Config, device: torch.device | None) -> dict[str, Any]:
    device = device_named(cfg.compute.device) if device is None else device
    is_frozen, has_engine = cfg.model.adapter == "lora", cfg.rollout.sampler == "vllm"
    dtype = dtype_named(cfg.compute.dtype, device, is_frozen=is_frozen)
    if device.type == "cpu" and dtype == torch.bfloat16 and not HAS_BFLOAT16:
        note("compute.dtype bfloat16 is imitated on this processor, which makes it many times slower than float32")
    return {
        "device": device,
        "dtype": dtype,
        "lora": Lora(cfg.model.lora.rank, cfg.model.lora.alpha, cfg.compute.seed) if is_frozen else None,
        "is_quantized": cfg.model.quantization != "none",
        "has_engine": has_engine,
        "shares_weights": not has_engine or (is_frozen and cfg.rollout.vllm.share_weights == "auto"),
        "is_eager": _switch(cfg.rollout.vllm.enforce_eager, auto=device.type != "cuda"),
    }


def _switch(setting: str, *, auto: bool) -> bool:
    return auto if setting == "auto" else setting == "on"
