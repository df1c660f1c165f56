"""The same update the usual way: transformers with gradient checkpoints, PEFT's own adapter, the loss of TRL or Liger.

    python benchmarks/gpu/usual.py          # on an NVIDIA card, a minute: Llama-3.1-8B, one sequence of 20,480 tokens

The model and its NF4 weights are those of updates.py, and so are attention (flash, no mask) and the 8-bit optimizer;
nothing is tiled, fused or kept on the host. What TRL adds in memory and time around this step is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import rivals
from figures import Bench, attempt, begin, gib, milliseconds, settle
from rlvr.batch import MicroBatch
from rlvr.runtime.ledger import Ledger
from rlvr.types import Totals
from updates import MAX_GRAD_NORM, Trainer, long_run, make_trainer, micro_batches

TOKENS = 20_480
ROUNDS = 2
Loss = Callable[[Tensor, Tensor, MicroBatch], Tensor]


def trl_loss(hidden: Tensor, head: Tensor, micro: MicroBatch) -> Tensor:
    """The policy term where the policy has not moved, its log-probabilities as TRL computes them."""
    logp, _ = rivals.trl()[1](hidden, head, micro.target_T)
    return -((logp - logp.detach()).exp() * micro.advantage_T).sum() / len(logp)


def liger_loss(hidden: Tensor, head: Tensor, micro: MicroBatch, *, compiled: bool) -> Tensor:
    """Liger's fused loss; the tokens count as those of eight completions."""
    old = torch.zeros(len(micro.target_T), device=hidden.device)
    return rivals.liger(micro.target_T, micro.advantage_T, old, compiled=compiled)(hidden, head)


def step(trainer: Trainer, micros: Sequence[MicroBatch], loss_of: Loss) -> None:
    for micro in micros:
        torch.autograd.backward(loss_of(trainer.policy.hidden(micro), trainer.policy.head, micro))
    trainer.optimizer.step_clipped(MAX_GRAD_NORM)


def figures(bench: Bench, trainer: Trainer, batch: tuple[list[MicroBatch], Totals], loss_of: Loss) -> dict[str, Any]:
    work = partial(step, trainer, batch[0], loss_of)
    work()
    settle(bench.device)
    ledger = Ledger(bench.device, trainer.policy.model.parameters())
    started = time.perf_counter()
    with ledger.phase("update"):
        work()
    seconds = time.perf_counter() - started
    peak = ledger.peaks["update"]
    return {
        "peak_gib": gib(peak.allocated_bytes),
        "reserved_gib": gib(peak.reserved_bytes),
        "device_gib": gib(peak.device_bytes),
        "seconds": seconds,
        "milliseconds": milliseconds(work, bench.device, rounds=ROUNDS),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    bench, _ = begin(__doc__, arguments)
    trainer = make_trainer(bench, "Llama-3.1-8B")
    trainer.policy.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    long = long_run(bench, TOKENS, 2, sequences=1, offload=False)
    batch = micro_batches(trainer.shape, *long, bench.device)
    losses: dict[str, Loss] = {
        f"logits by {rivals.trl()[0]}": trl_loss,
        "loss by Liger": partial(liger_loss, compiled=bench.is_cuda),
    }
    for name, loss_of in losses.items():
        what = f"{trainer.shape.name}, 1 × 20K, the usual way, {name}"
        line = attempt(bench, what, partial(figures, bench, trainer, batch, loss_of))
        if "failed" not in line:
            bench.judge(f"{what}, training peak", line["peak_gib"], "GiB")
            bench.judge(f"{what}, an update of two", line["milliseconds"] / 1000, "s")


if __name__ == "__main__":
    main()
