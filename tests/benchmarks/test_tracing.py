"""What the trace counts on tensors without memory is what the ledger measures with it, and work has known sizes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlvr.plan.cards import Card, Speed
from rlvr.plan.work import Work
from rlvr.runtime.ledger import Ledger

SUITE = Path(__file__).parents[2] / "benchmarks/gpu"


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SUITE)
        yield importlib.import_module


def network(device: str) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 64)).to(device)


def step(model: nn.Module, x: Tensor) -> None:
    y = model(x.view(4, 50, 64)[:, 1:])
    torch.autograd.backward((y.float().reshape(-1, 64) ** 2).mean())


def test_peaks_are_those_of_tensors_with_memory(load: Callable[[str], Any]) -> None:
    model, x = network("cpu"), torch.zeros(200, 64)
    ledger = Ledger(torch.device("cpu"), [*model.parameters(), x])
    for _ in range(2):
        with ledger.phase("step"):
            step(model, x)
    trace, model, x = load("tracing").Trace(), network("meta"), torch.zeros(200, 64, device="meta")
    trace.hold([*model.parameters(), x], "held")
    with trace:
        for _ in range(2):
            with trace.phase("step"):
                step(model, x)
    peak = load("peaks").peaks(trace.events, trace.names, since=0)["step"]
    assert peak.bytes == sum(peak.rows.values()) == pytest.approx(ledger.peaks["step"].allocated_bytes, rel=1e-3)
    assert peak.rows["held"] == sum(weight.nbytes for weight in (*model.parameters(), x))


def test_work_has_known_sizes(load: Callable[[str], Any]) -> None:
    trace = load("tracing").Trace()
    a, b = (torch.empty(size, dtype=torch.bfloat16, device="meta") for size in ((30, 40), (40, 50)))
    slab = trace.host_memory(2400).view(torch.bfloat16).view(30, 40)
    with trace, trace.phase("products"):
        made = a @ b
    with trace, trace.phase("copies"):
        slab.copy_(a)
        a.copy_(slab)
    with trace, trace.phase("rest"):
        made.view(-1)[:100].add_(1.0)
    work = trace.work
    assert (work["products"].product_flops, work["products"].product_bytes) == (120_000, 2 * (1200 + 2000 + 1500))
    assert (work["copies"].to_host_bytes, work["copies"].from_host_bytes, trace.host_bytes) == (2400, 2400, 2400)
    assert (work["rest"].other_bytes, work["rest"].launches) == (200, 1)
    assert trace.live_bytes == made.nbytes


def test_attention_counts_what_its_kernel_takes_inside(load: Callable[[str], Any]) -> None:
    trace = load("tracing").Trace()
    q, k = (torch.empty(100, heads, 64, dtype=torch.bfloat16, device="meta") for heads in (8, 2))
    bounds = torch.tensor([0, 40, 100], dtype=torch.int32)
    with trace, trace.phase("forward"):
        out, lse, *_ = torch.ops.aten._flash_attention_forward(q, k, k, bounds, bounds, 60, 60, 0.0, True, False)
    with trace, trace.phase("backward"):
        seed, offset = torch.empty(2, dtype=torch.uint64, device="meta"), torch.empty(0, device="meta")
        torch.ops.aten._flash_attention_backward(
            out, q, k, k, out, lse, bounds, bounds, 60, 60, 0.0, True, seed, offset
        )
    pairs = (40**2 + 60**2) / 2
    assert trace.work["forward"].attention_flops == 4 * pairs * 8 * 64
    assert trace.work["backward"].attention_flops == 10 * pairs * 8 * 64
    rows = load("peaks").peaks(trace.events, trace.names, since=0)["backward"].rows
    padded = 100 + 2 * 128
    assert rows[load("tracing").WORKSPACE] == 4 * 8 * padded + 4 * padded * 8 * 64 + 2 * (2 * 100 * 8 * 64)


@pytest.mark.parametrize(("window", "pairs"), [(-1, 100 * 100 / 2), (0, 100 - 0.5), (9, 100 * 10 - 50), (200, 5000)])
def test_a_window_leaves_less_to_attend_to(load: Callable[[str], Any], window: int, pairs: float) -> None:
    trace = load("tracing").Trace()
    q = torch.empty(100, 4, 64, dtype=torch.bfloat16, device="meta")
    bounds = torch.tensor([0, 100], dtype=torch.int32)
    with trace, trace.phase("forward"):
        torch.ops.aten._flash_attention_forward(
            q, q, q, bounds, bounds, 100, 100, 0.0, False, False, window_size_left=window, window_size_right=0
        )
    assert trace.work["forward"].attention_flops == 4 * pairs * 4 * 64


def test_the_least_time_is_that_of_the_peaks(load: Callable[[str], Any]) -> None:
    speed = load("speed")
    card = Card("card", 1, True, Speed(100.0, 10.0, 1.0))
    work = Work(
        product_flops=500.0, attention_flops=100.0, product_bytes=20, unpacked_bytes=30, other_bytes=40,
        to_host_bytes=5, from_host_bytes=7, launches=3,
    )  # fmt: skip
    assert list(speed.least_seconds(work, card.speed).values()) == [5.0, 1.0, 3.0, 5.2, 7.0]
    assert speed.bound_seconds(work, card) == 14.2 and speed.ideal_seconds(work, card) == 6.0
    assert speed.summed({"a": work, "b": work}).launches == 6
