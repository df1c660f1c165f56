"""The ledger: programs whose live bytes are known."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.runtime.ledger import Ledger, LiveStorages, Peak

CPU = torch.device("cpu")
MEGA = 250_000  # float32 numbers in a million bytes


def peak(ledger: Ledger, name: str) -> int:
    found = ledger.peaks[name]
    assert (found.reserved_bytes, found.device_bytes) == (None, None)
    return found.allocated_bytes


def test_what_is_freed_no_longer_counts() -> None:
    ledger = Ledger(CPU, [])
    with ledger.phase("two at a time"):
        x = torch.zeros(MEGA)
        for _ in range(5):
            x = x + 1.0
    assert peak(ledger, "two at a time") == 2_000_000
    with ledger.phase("one"):
        x.add_(1.0)
    assert peak(ledger, "one") == 1_000_000
    del x
    with ledger.phase("none"):
        pass
    assert peak(ledger, "none") == 0


def test_views_share_their_storage() -> None:
    ledger = Ledger(CPU, [])
    with ledger.phase("views"):
        x = torch.zeros(MEGA)
        views = [x.view(500, 500), x[: MEGA // 2], x.view(500, 500).T]
    assert peak(ledger, "views") == 1_000_000
    del x, views[:2]
    assert ledger.live.bytes == 1_000_000  # one view is enough


def test_resident_tensors_count_from_the_start_and_once() -> None:
    weight = torch.zeros(MEGA, requires_grad=True)
    ledger = Ledger(CPU, [weight, weight.view(500, 500)])
    with ledger.phase("idle"):
        pass
    assert peak(ledger, "idle") == 1_000_000


def test_what_the_backward_pass_keeps_and_makes() -> None:
    weight = torch.zeros(MEGA, requires_grad=True)
    ledger = Ledger(CPU, [weight])
    with ledger.phase("forward"):
        kept = weight.exp()  # kept by its own backward
        loss = (kept * 2.0).sum()  # the product is not
    assert peak(ledger, "forward") == pytest.approx(3_000_000, abs=100)
    assert ledger.live.bytes == pytest.approx(2_000_000, abs=100)
    del kept
    with ledger.phase("backward"):
        torch.autograd.backward(loss)
    assert weight.grad is not None
    assert peak(ledger, "backward") == pytest.approx(4_000_000, abs=100)  # weight, exp, gradient of exp, gradient
    assert ledger.live.bytes == pytest.approx(2_000_000, abs=100)


def test_a_gradient_checkpoint_is_seen_to_save() -> None:
    from torch.utils.checkpoint import checkpoint  # noqa: PLC0415

    def layer(x: torch.Tensor) -> torch.Tensor:
        for _ in range(8):
            x = x.exp()
        return x

    peaks = []
    for is_checkpointed in (False, True):
        x = torch.full((MEGA,), -1.0, requires_grad=True)
        ledger = Ledger(CPU, [x])
        with ledger.phase("forward"):
            out = x
            for _ in range(3):
                out = checkpoint(layer, out, use_reentrant=False) if is_checkpointed else layer(out)
        peaks.append(peak(ledger, "forward"))
        del out
    assert peaks == [25_000_000, 5_000_000]


def test_a_phase_that_comes_again_keeps_its_largest_peak() -> None:
    ledger = Ledger(CPU, [])
    for size in (1, 3, 2):
        with ledger.phase("update"):
            torch.zeros(size * MEGA)
    assert ledger.peaks == {"update": Peak(3_000_000, None, None)}


def test_an_error_notes_nothing_and_passes_through() -> None:
    ledger = Ledger(CPU, [])
    with pytest.raises(RuntimeError, match="mine"), ledger.phase("update"):
        raise RuntimeError("mine")
    assert ledger.peaks == {}
    with ledger.phase("update"):
        torch.zeros(MEGA)
    assert peak(ledger, "update") == 1_000_000


def test_what_runs_outside_of_a_phase_is_not_looked_at() -> None:
    ledger = Ledger(CPU, [])
    with ledger.phase("before"):
        pass
    torch.zeros(MEGA)
    with ledger.phase("after"):
        torch.zeros(10)
    assert ledger.peaks == {"before": Peak(0, None, None), "after": Peak(40, None, None)}


def test_weights_in_onednns_layout_pass_through() -> None:
    from rlvr.linear import Linear  # noqa: PLC0415

    layer = Linear(64, 64, bias=False)
    ledger = Ledger(CPU, layer.parameters())
    x = torch.randn(4, 64)
    with torch.no_grad(), ledger.phase("product"):
        product = layer(x)
    torch.testing.assert_close(product, x @ layer.weight.T)
    assert peak(ledger, "product") >= layer.weight.nbytes + x.nbytes + product.nbytes


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 1000)), max_size=30))
def test_any_order_of_making_and_dropping(actions: list[tuple[bool, int]]) -> None:
    ledger, held, live, most = Ledger(CPU, []), [], 0, 0
    with ledger.phase("actions"):
        for makes, size in actions:
            if makes:
                held.append(torch.empty(size))
                live += 4 * size
                most = max(most, live)
            elif held:
                live -= held.pop(size % len(held)).nbytes
    gc.collect()
    assert (peak(ledger, "actions"), ledger.live.bytes) == (most, live)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_allocator_counts() -> None:
    device = torch.device("cuda")
    ledger = Ledger(device, [])
    before = torch.cuda.memory_allocated(device)
    with ledger.phase("update"):
        del [torch.zeros(2**20, device=device)][0]
    found = ledger.peaks["update"]
    assert found.allocated_bytes - before == 2**22
    assert found.reserved_bytes is not None and found.device_bytes is not None
    assert found.allocated_bytes <= found.reserved_bytes <= found.device_bytes


def test_a_phase_inside_another_counts_for_itself() -> None:
    ledger = Ledger(CPU, [])
    with ledger.phase("update"):
        x = torch.zeros(3 * MEGA)
        del x
        with ledger.phase("optimizer"):
            torch.zeros(MEGA)
        torch.zeros(2 * MEGA)
    assert (peak(ledger, "update"), peak(ledger, "optimizer")) == (3_000_000, 1_000_000)


def test_an_error_in_an_inner_phase_ends_both() -> None:
    ledger = Ledger(CPU, [])
    with pytest.raises(RuntimeError, match="mine"), ledger.phase("update"), ledger.phase("optimizer"):
        raise RuntimeError("mine")
    assert ledger.peaks == {}
    with ledger.phase("update"):
        torch.zeros(MEGA)
    torch.zeros(5 * MEGA)
    assert peak(ledger, "update") == 1_000_000


def test_without_counting_only_the_process_is_measured() -> None:
    ledger = Ledger(CPU, [])
    ledger.is_counting = False
    with ledger.phase("update"):
        torch.zeros(MEGA)
    assert ledger.peaks == {} and ledger.process_bytes["update"] > 50_000_000


def test_what_is_only_read_counts_where_it_is_asked_for() -> None:
    x, found = torch.zeros(MEGA), {}
    for reads in (True, False):
        with LiveStorages(CPU, reads=reads) as live:
            x.add_(1.0)
            y = x.view(500, 500) + x.view(500, 500)
        found[reads] = live.bytes
        del y
    assert found == {True: 2_000_000, False: 1_000_000}
