"""The device of a run and the type of its weights."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from rlvr.runtime.messages import warn
from rlvr.types import UserError

DRIVER = Path("/proc/driver/nvidia/version")  # on Linux, where the driver is loaded
OLDEST_DRIVERS = {12: 525, 13: 580}  # that a CUDA works with (CUDA Compatibility, NVIDIA)


def device_named(setting: str) -> torch.device:
    """`compute.device`, with auto resolved. Raises UserError when torch cannot use the device here.

    Warns where auto passes over a GPU of NVIDIA.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind]) if setting == "auto" else setting
    unused = None if available["cuda"] else unused_gpu()
    if not available[name]:
        why = f": {unused}; or" if name == "cuda" and unused else ";"
        raise UserError(
            f"compute.device is {name}, which torch {torch.__version__} cannot use here{why} use auto or cpu"
        )
    if setting == "auto" and unused:
        warn(f"compute.device auto is {name} here: {unused}")
    return torch.device(name)


def unused_gpu() -> str | None:
    """Why torch, which finds no GPU, cannot use the one whose driver is loaded, and the remedy; None without one."""
    try:
        driver = re.search(r"\b(\d+)\.\d+[\d.]*", DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return None
    if driver is None:
        return None
    gpu = f"there is an NVIDIA GPU with driver {driver[0]}"
    if torch.version.cuda is None:
        return f"{gpu}, and torch {torch.__version__} is built for CPUs only: install torch with CUDA"
    oldest = OLDEST_DRIVERS.get(int(torch.version.cuda.partition(".")[0]))
    if oldest is not None and int(driver[1]) < oldest:
        return f"{gpu}, and CUDA {torch.version.cuda} of torch needs {oldest} or newer: update the driver"
    return f"{gpu}, which torch does not see: look at nvidia-smi and CUDA_VISIBLE_DEVICES"


def dtype_named(setting: str, device: torch.device, *, is_frozen: bool) -> torch.dtype:
    """`compute.dtype`, with auto resolved to fastest_dtype; `is_frozen`: the weights are under an adapter."""
    if setting == "auto":
        is_real = device.type == "cuda" and has_bfloat16()
        return fastest_dtype(device.type, has_bfloat16=is_real, is_frozen=is_frozen)
    named: torch.dtype = getattr(torch, setting)
    return named


def fastest_dtype(kind: str, *, has_bfloat16: bool, is_frozen: bool) -> torch.dtype:
    """bfloat16 on a GPU, float16 on one without it, float32 on a device of another `kind`.

    16 bits are for frozen weights under an adapter: weights that are trained in them lose most small updates.
    """
    if kind != "cuda" or not is_frozen:
        return torch.float32
    return torch.bfloat16 if has_bfloat16 else torch.float16


def has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16, rather than imitating it."""
    is_real: bool = torch.cuda.is_bf16_supported(including_emulation=False)
    return is_real


def sum_in_float32() -> None:
    """Let matrix products of 16 bits on a GPU keep their sums in float32 to the end, which torch does not by itself."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def device_name(device: torch.device) -> str:
    """The device's name in cards and reports."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of `dtype` in params.yaml, cards and configurations: bfloat16, not torch.bfloat16."""
    return str(dtype).removeprefix("torch.")
