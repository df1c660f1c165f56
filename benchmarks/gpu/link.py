"""Ceilings: the link between host and device, products with the head, and what float32 costs.

    python benchmarks/gpu/link.py          # on an NVIDIA card, half a minute

Copies are one layer input of a sequence of 20,480 tokens of Llama-3.1-8B, 160 MiB, in memory that torch has
page-locked and in the slab of rlvr.memory.offload, each way alone and both at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from figures import Bench, attempt, begin, milliseconds
from rlvr.logprob.fused import product
from rlvr.memory.offload import host_memory

COPY_BYTES, TINY_BYTES = 160 * 2**20, 2**16
PRODUCTS = ((512, 1024, 2048), 4096, 128_256)  # rows of a chunk, width, vocabulary
TINY_PRODUCTS = ((2, 4), 64, 200)
LEAST_GB_PER_SECOND = 10.0  # below it the offload would not hide behind the computation


def copies(bench: Bench) -> None:
    size_bytes = TINY_BYTES if bench.is_tiny else COPY_BYTES
    rounds = 2 if bench.is_tiny else 20
    there, back = (torch.zeros(size_bytes, dtype=torch.uint8, device=bench.device) for _ in range(2))
    hosts = {
        "torch's page-locked memory": torch.zeros(2 * size_bytes, dtype=torch.uint8, pin_memory=bench.is_cuda),
        "the offload's slab": host_memory(2 * size_bytes, page_locked=bench.is_cuda, key="memory.offload"),
    }
    for name, host in hosts.items():
        source, target = torch.split(host, size_bytes)
        rates = {
            "host to device": _rate(bench, [(there, source)], rounds),
            "device to host": _rate(bench, [(target, back)], rounds),
            "both at once": _rate(bench, [(there, source), (target, back)], rounds),
        }
        bench.note(f"link, {name}", **{f"{way}, GB/s": rate for way, rate in rates.items()})
    for way in ("host to device", "device to host"):
        bench.judge(f"link, {way}", round(rates[way], 1), "GB/s", at_least=LEAST_GB_PER_SECOND)


def _rate(bench: Bench, pairs: list[tuple[Tensor, Tensor]], rounds: int) -> float:
    """10⁹ bytes a second over all `pairs` (target, source), each on its own stream."""
    streams = [
        torch.cuda.Stream(bench.device) if bench.is_cuda else None  # type: ignore[no-untyped-call]
        for _ in pairs
    ]

    def work() -> None:
        for (target, source), stream in zip(pairs, streams, strict=True):
            if stream is None:
                target.copy_(source)
                continue
            with torch.cuda.stream(stream):
                target.copy_(source, non_blocking=True)

    return len(pairs) * pairs[0][0].nbytes / milliseconds(work, bench.device, rounds=rounds) / 1e6


def products(bench: Bench) -> None:
    """hidden · headᵀ in bfloat16 as the head does it, with float32 out, and what the alternatives cost."""
    all_rows, width, vocabulary = TINY_PRODUCTS if bench.is_tiny else PRODUCTS
    head = torch.randn(vocabulary, width, device=bench.device, dtype=torch.bfloat16)
    wide_head = head.float()
    for rows in all_rows:
        hidden = torch.randn(rows, width, device=bench.device, dtype=torch.bfloat16)
        ways = {
            "bfloat16, float32 out": lambda hidden=hidden: product(hidden, head),
            "bfloat16 out": lambda hidden=hidden: hidden @ head.T,
            "bfloat16 out, then float32": lambda hidden=hidden: (hidden @ head.T).float(),
            "float32": lambda hidden=hidden: hidden.float() @ wide_head.T,
        }
        for name, work in ways.items():

            def figures(work: object = work, rows: int = rows) -> dict[str, float]:
                spent = milliseconds(work, bench.device, rounds=2 if bench.is_tiny else 10)  # type: ignore[arg-type]
                return {"milliseconds": spent, "tflops": 2e-9 * rows * width * vocabulary / spent}

            attempt(bench, f"product, {name}", figures, rows=rows, width=width, vocabulary=vocabulary)


def main(arguments: Sequence[str] | None = None) -> None:
    bench, _ = begin(__doc__, arguments)
    copies(bench)
    products(bench)


if __name__ == "__main__":
    main()
