"""Products of linear.py and torch's own, on shapes of the scratch model and SmolLM2-135M: GFLOP/s on one thread.

Writes a file for each kind of processor: linear-avx2.json, linear-avx512.json.

python benchmarks/linear.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from recipe import RESULTS, write_result
from rlvr.linear import linear, through_onednn

SHAPES = {"scratch": (64, 64), "attention": (576, 576), "mlp": (576, 1536), "head": (576, 49152)}  # in, out
SECONDS = 0.3  # for each figure


def rate(work: Callable[[], Any], operations: int) -> float:
    """GFLOP/s of the fastest call."""
    work()
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - started)
    return round(operations / fastest / 1e9, 1)


def forward_backward(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Callable[[], Any]:
    upstream = torch.ones(len(x), len(weight), dtype=x.dtype)
    return lambda: torch.autograd.grad(product(x, weight), (x, weight), upstream)


def compare(dtype: torch.dtype, inner: int, outer: int, rows: int) -> dict[str, float]:
    x, operations = torch.randn(rows, inner, dtype=dtype), 2 * rows * inner * outer
    plain = nn.Linear(inner, outer, bias=False, dtype=dtype)
    ours = through_onednn(nn.Linear(inner, outer, bias=False, dtype=dtype))
    with torch.no_grad():
        found = {"torch": rate(lambda: plain(x), operations), "ours": rate(lambda: ours(x), operations)}
    if rows == 1024:
        x.requires_grad_()
        for side, product in (("torch", F.linear), ("ours", linear)):
            work = forward_backward(product, x, plain.weight)
            found[f"{side}, forward and backward"] = rate(work, 3 * operations)
    return found


def main() -> None:
    torch.set_num_threads(1)
    runs = []
    for dtype in (torch.float32, torch.bfloat16):
        for name, (inner, outer) in SHAPES.items():
            for rows in (8, 32, 256, 1024):
                runs.append({"dtype": str(dtype), "layer": name, "rows": rows} | compare(dtype, inner, outer, rows))
                print(runs[-1], flush=True)
    write_result(RESULTS / f"linear-{torch.backends.cpu.get_cpu_capability().lower()}.json", runs)


if __name__ == "__main__":
    main()
