"""What every part of the GPU suite shares: its options, its clock, its peaks, and the lines that it writes."""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.runtime.ledger import Ledger
from rlvr.stages.provenance import commit
from rlvr.types import UserError

PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "liger-kernel", "trl", "vllm")
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
GIB = 2**30


@dataclass(frozen=True)
class Bench:
    """Where a part runs, whether in miniature, and the file that takes a line of JSON for each figure."""

    device: torch.device
    is_tiny: bool
    out: Path | None

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def note(self, what: str, **values: Any) -> dict[str, Any]:
        """Print and write a figure."""
        line = {"what": what} | values
        print(json.dumps({key: _short(value) for key, value in line.items()}), flush=True)
        if self.out is not None:
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return line

    def judge(
        self,
        what: str,
        value: float | None,
        unit: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Write a figure for the table at the end, next to its target; in miniature no target applies."""
        target = f"≥ {at_least:g}" if at_least is not None else "" if at_most is None else f"≤ {at_most:g}"
        is_met = None
        if target and not self.is_tiny:
            above, below = at_least is None or (value or 0.0) >= at_least, at_most is None or (value or 0.0) <= at_most
            is_met = value is not None and above and below
        self.note(what, value=value, unit=unit, target=target, is_met=is_met)


def begin(
    description: str | None, arguments: Sequence[str] | None, *, choices: Sequence[str] = ()
) -> tuple[Bench, list[str]]:
    """The options of a part: --tiny, --out, and where it has `choices` which of them to run, all by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the same code on sizes that any machine does in seconds")
    parser.add_argument("--out", type=Path, help="a file that takes a line of JSON for each figure")
    if choices:
        parser.add_argument("only", nargs="*", metavar="CASE", help=f"of {', '.join(choices)}; all without")
    options = parser.parse_args(arguments)
    wanted = list(getattr(options, "only", [])) or list(choices)
    if unknown := set(wanted) - set(choices):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(choices)}")
    if not options.tiny and not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU here; --tiny runs the same code, small, on a CPU")
    return Bench(torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.tiny, options.out), wanted


def largest(values: Sequence[float | None]) -> float | None:
    """The largest, or None where one is missing."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settle(device: torch.device) -> None:
    """Free what no longer counts: models refer to themselves, and the allocator keeps what the case before reserved."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def milliseconds(work: Callable[[], Any], device: torch.device, *, rounds: int) -> float:
    """Median of `rounds` calls, after one to warm up."""
    work()
    spent = []
    for _ in range(rounds):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        spent.append(1e3 * (time.perf_counter() - started))
    return statistics.median(spent)


def peak(work: Callable[[], Any], device: torch.device, resident: Iterable[Tensor]) -> dict[str, int | None]:
    """Bytes at the highest while `work` runs: above what was there before, in tensors, reserved, on the device.

    `resident` are the tensors that exist before; only a CPU needs to be told.
    """
    settle(device)
    ledger = Ledger(device, resident := list(resident))
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
    else:
        before = sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in resident}.values())
    with ledger.phase("work"):
        work()
    found = ledger.peaks["work"]
    return {"above_bytes": found.allocated_bytes - before} | vars(found)


def attempt(bench: Bench, what: str, work: Callable[[], dict[str, Any]], **about: Any) -> dict[str, Any]:
    """Write the figures of `work`, or why there are none: it does not fit, or there is no such kernel here."""
    try:
        found = work()
    except (UserError, ImportError, NotImplementedError, RuntimeError, AssertionError) as error:
        found = {"failed": f"{type(error).__name__}: {str(error).strip()}"[:300]}
    if "failed" in found:
        settle(bench.device)  # only now: the error held on to the tensors of its frames
    return bench.note(what, **about, **found)


def gib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / GIB, 6)


def about() -> dict[str, Any]:
    """Device, driver, versions and commit: what a figure is reported with."""
    return {
        "commit": commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu {platform.machine()}",
        "is_cuda": torch.cuda.is_available(),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "capability": list(torch.cuda.get_device_capability()) if torch.cuda.is_available() else None,
        "allocator": {name: os.environ[name] for name in ALLOCATOR if name in os.environ},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def _driver() -> str | None:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value


if __name__ == "__main__":
    print(json.dumps(about()))
