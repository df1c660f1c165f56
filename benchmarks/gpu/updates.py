"""Whole updates of models of real shapes: forward, head and loss, backward, optimizer; peaks next to the plan.

    python benchmarks/gpu/updates.py                # on an NVIDIA card, five minutes
    python benchmarks/gpu/updates.py stack long     # some of it

    stack   Llama-3.1-8B, one sequence of 20,480 tokens in a micro-batch, then eight; layer inputs on card and host
    long    one sequence of 131,072 tokens
    small   Qwen2.5-1.5B and Phi-4 (14B), 8 completions of 2,048 tokens, rollout included, as the planner would have it
    grid    four layers of Llama-3.1-8B over tokens, rank, tile and chunk: how far the planner is off

Weights are random, in NF4; the adapter has rank 32, its optimizer is AdamW with 8-bit states.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch

from figures import Bench, attempt, begin, gib, largest, milliseconds, settle
from models import choice_of, make_policy, settings_of, shape_named, trained
from rlvr.batch import MicroBatch, MiniBatch, TrainRow
from rlvr.loss import policy_loss
from rlvr.model.policy import Policy, in_turn
from rlvr.plan.cards import card_of_size
from rlvr.plan.planner import plan
from rlvr.plan.predict import predict
from rlvr.plan.settings import Choice, PlanSettings, shares_prompt
from rlvr.plan.shapes import Shape
from rlvr.runtime.ledger import Ledger
from rlvr.sampler import NativeSampler, Sampling
from rlvr.training.optim import Optimizer
from rlvr.types import LossSpec, Problem, Prompt, SharePrompts, Totals

RANK = 32
CONTEXT, LONGEST = 20_480, 131_072
TILE_ROWS, HEAD_ROWS = 2048, 1024
WARM_TOKENS = 64
MAX_GRAD_NORM = 1.0
SPEC = LossSpec(
    loss_type="dr_grpo", epsilon=0.2, epsilon_high=0.28, delta=None, beta=0.0, kl_unbiased=True,
    importance_correction="off", importance_min=None, importance_max=3.0, entropy_bonus=0.0,
    max_completion_tokens=CONTEXT, temperature=1.0,
)  # fmt: skip
GRID = ((8, 32), (4096, 16_384), (1024, 4096), (256, 1024))  # rank, tokens, rows of a tile, rows of logits
Phase = Callable[[str], AbstractContextManager[Any]]


def unmeasured(name: str) -> AbstractContextManager[None]:
    """A phase whose peak nobody reads."""
    return nullcontext()


@dataclass(frozen=True)
class Trainer:
    """A model under training, and what the planner knows of it."""

    shape: Shape
    rank: int
    policy: Policy
    optimizer: Optimizer


def make_trainer(bench: Bench, model: str, *, rank: int = RANK, **changes: Any) -> Trainer:
    settle(bench.device)
    shape = shape_named(model, is_tiny=bench.is_tiny, **changes)
    policy = make_policy(shape, rank=rank, device=bench.device)
    optimizer = Optimizer(
        policy.trainable(), learning_rate=1e-6, warmup_steps=0, betas=(0.9, 0.99), weight_decay=0.0,
        schedule="constant", total_steps=1, kind="adamw_8bit", on_host=False, scales_loss=False,
    )  # fmt: skip
    return Trainer(shape, rank, policy, optimizer)


def micro_batches(
    shape: Shape, settings: PlanSettings, choice: Choice, device: torch.device
) -> tuple[list[MicroBatch], Totals]:
    """The completions of one prompt, of random tokens, `choice.sequences` to a micro-batch."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> torch.Tensor:
        return torch.randint(shape.vocab_size, (count,), generator=generator)

    length, prompt = settings.completion_tokens, tuple(tokens(max(1, settings.prompt_tokens)).tolist())
    rows = tuple(
        TrainRow(0, prompt, tokens(length), torch.zeros(length), 1.0 - g % 3) for g in range(settings.completions)
    )
    totals = Totals(len(rows), len(rows) * length)
    budget = choice.sequences * length + (0 if shares_prompt(settings, choice) else len(prompt) - 1)
    share: SharePrompts = "auto" if choice.share_prompts else "off"
    return MiniBatch(rows, totals).split_sharing(budget, device, share_prompts=share), totals


def update(trainer: Trainer, policy: Policy, micros: Sequence[MicroBatch], totals: Totals, phase: Phase) -> None:
    """One optimizer step. Phase "prompt" is what runs between micro-batches: the passes of a prompt that they share.

    As in rlvr.grpo.update, nothing here holds the last hidden states when the loss is known.
    """
    with phase("prompt"):
        for micro in in_turn(policy, micros, with_gradient=True):
            with phase("forward"):
                states = [policy.hidden(micro)]
            with phase("head"):
                loss, _ = policy_loss(
                    states.pop(), policy.head, micro, totals=totals, spec=SPEC, impl=policy.kernels,
                    chunk_rows=policy.logit_chunk_rows,
                )  # fmt: skip
            with phase("backward"):
                trainer.optimizer.backward(loss)
                del loss
    with phase("optimizer"):
        trainer.optimizer.step_clipped(MAX_GRAD_NORM)


def measured_update(
    bench: Bench, what: str, trainer: Trainer, settings: PlanSettings, choice: Choice, *, rounds: int = 0
) -> dict[str, Any]:
    """Peaks of each phase next to the plan, seconds of that step, and milliseconds of `rounds` more."""

    def figures() -> dict[str, Any]:
        policy = trained(
            trainer.policy, tile_rows=choice.tile_rows, offload=choice.offload, head_rows=choice.head_rows,
            keep_attention=choice.keep_attention,
        )  # fmt: skip
        short = replace(settings, completions=1, prompt_tokens=0, completion_tokens=WARM_TOKENS)
        update(trainer, policy, *micro_batches(trainer.shape, short, choice, bench.device), unmeasured)
        micros, totals = micro_batches(trainer.shape, settings, choice, bench.device)
        settle(bench.device)
        ledger = Ledger(bench.device, trainer.policy.model.parameters())
        started = time.perf_counter()
        update(trainer, policy, micros, totals, ledger.phase)
        found = beside_plan(trainer, settings, choice, ledger) | {"seconds": time.perf_counter() - started}
        if rounds:
            again = partial(update, trainer, policy, micros, totals, unmeasured)
            found["milliseconds"] = milliseconds(again, bench.device, rounds=rounds)
        return found

    tokens = settings.context * settings.completions
    return attempt(
        bench, what, figures, model=trainer.shape.name, tokens=tokens, rank=trainer.rank, choice=vars(choice)
    )


def beside_plan(trainer: Trainer, settings: PlanSettings, choice: Choice, ledger: Ledger) -> dict[str, Any]:
    """GiB at the peak of the update and of each of its phases, planned and measured."""
    planned = predict(trainer.shape, settings, choice)
    phases = {name: {key: gib(value) for key, value in vars(peak).items()} for name, peak in ledger.peaks.items()}
    for name in phases.keys() & planned.phases.keys():
        phases[name]["planned_bytes"] = gib(planned.allocated_bytes(name))
    phases = {name: {key.replace("bytes", "gib"): value for key, value in row.items()} for name, row in phases.items()}
    peak = max(found.allocated_bytes for found in ledger.peaks.values())
    device = [found.device_bytes for found in ledger.peaks.values() if found.device_bytes is not None]
    return {
        "peak_gib": gib(peak),
        "planned_gib": gib(planned.training_bytes),
        "planner_error": peak / planned.training_bytes - 1.0,
        "device_gib": gib(max(device)) if device else None,
        "planned_device_gib": gib(planned.peak_bytes),
        "phases": phases,
    }


def stack(bench: Bench) -> None:
    """Llama-3.1-8B with sequences of 20K: one in a micro-batch of two, then all eight in one."""
    trainer = make_trainer(bench, "Llama-3.1-8B")
    for sequences, completions, rounds, limit in ((1, 2, 3, 8.4), (8, 8, 0, 22.0)):
        name = f"{trainer.shape.name}, {sequences} × 20K"
        spent = []
        for offload in (False, True):
            settings, choice = long_run(bench, CONTEXT, completions, sequences=sequences, offload=offload)
            place = "host" if offload else "card"
            found = measured_update(bench, f"{name}, inputs on the {place}", trainer, settings, choice, rounds=rounds)
            spent.append(found.get("milliseconds"))
        bench.judge(f"{name}, training peak", found.get("peak_gib"), "GiB", at_most=limit)
        if sequences == 1:
            judge_single(bench, name, trainer, found, spent)


def judge_single(bench: Bench, name: str, trainer: Trainer, found: dict[str, Any], spent: list[float | None]) -> None:
    """What one sequence in a micro-batch must also meet."""
    excess = None if "peak_gib" not in found else found["peak_gib"] - found["planned_gib"]
    bench.judge(f"{name}, above the plan", excess, "GiB", at_most=0.5)
    cache = CONTEXT * trainer.shape.kv_bytes_per_token(2)
    device = found.get("device_gib")
    total = None if device is None else device + (gib(cache) or 0.0)
    bench.judge(f"{name}, on the device, and KV of one sequence", total, "GiB", at_most=12.5)
    plain, offloaded = spent
    slowdown = None if plain is None or offloaded is None else 100 * (offloaded / plain - 1.0)
    bench.judge(f"{name}, slowdown by the offload", slowdown, "%", at_most=1.0)
    bench.judge(f"{name}, an update of two", None if offloaded is None else offloaded / 1000, "s")


def long(bench: Bench) -> None:
    trainer = make_trainer(bench, "Llama-3.1-8B")
    settings, choice = long_run(bench, LONGEST, 1, sequences=1, offload=True)
    name = f"{trainer.shape.name}, 1 × {LONGEST:,}"
    found = measured_update(bench, name, trainer, settings, choice)
    bench.judge(f"{name}, training peak", found.get("peak_gib"), "GiB", at_most=20.0)
    bench.judge(f"{name}, on the device", found.get("device_gib"), "GiB", at_most=23.5)
    bench.judge(f"{name}, one update", found.get("seconds"), "s")


def long_run(
    bench: Bench, tokens: int, completions: int, *, sequences: int, offload: bool
) -> tuple[PlanSettings, Choice]:
    tokens, tile_rows, head_rows = (40, 16, 8) if bench.is_tiny else (tokens, TILE_ROWS, HEAD_ROWS)
    settings = settings_of(
        rank=RANK, completions=completions, prompt_tokens=0, completion_tokens=tokens, device=bench.device
    )
    return settings, choice_of(sequences=sequences, offload=offload, tile_rows=tile_rows, head_rows=head_rows)


def small(bench: Bench) -> None:
    """Steps of 8 completions of 2K tokens, in the memory that they are to fit."""
    for model, limit in (("Qwen2.5-1.5B", 3.5), ("Phi-4", 13.5)):
        trainer = make_trainer(bench, model)
        prompt, completion = (8, 24) if bench.is_tiny else (512, 1536)
        settings = settings_of(
            rank=RANK, completions=8, prompt_tokens=prompt, completion_tokens=completion, device=bench.device
        )
        choice = plan(trainer.shape, settings, card_of_size(limit), ()).choice
        found = measured_update(bench, f"{model}, 8 × 2K, update", trainer, settings, choice)
        sampled = attempt(bench, f"{model}, 8 × 2K, rollout", partial(rollout, bench, trainer, settings, choice))
        worst = largest([figure.get("device_gib" if bench.is_cuda else "peak_gib") for figure in (found, sampled)])
        bench.judge(f"{model}, 8 × 2K, on the device", worst, "GiB", at_most=limit)
        del trainer


def rollout(bench: Bench, trainer: Trainer, settings: PlanSettings, choice: Choice) -> dict[str, Any]:
    """The peak of sampling: caches for whole completions, of which a few tokens are drawn, as half of them end one."""
    policy = replace(trainer.policy, eos_ids=tuple(range(trainer.shape.vocab_size // 2)))
    silent: Any = SimpleNamespace(batch_decode=lambda ids, **_: [""] * len(ids))
    sampler = NativeSampler(silent, "", Sampling(1.0, settings.completion_tokens, choice.kv_sequences))
    sampler.sync(policy)
    prompt = Prompt(Problem("p", "", "", "", 1), tuple(range(settings.prompt_tokens)))
    settle(bench.device)
    ledger = Ledger(bench.device, trainer.policy.model.parameters())
    with ledger.phase("rollout"):
        list(sampler.sample([prompt], choice.kv_sequences, seed=(0,)))
    peak = ledger.peaks["rollout"]
    planned = predict(trainer.shape, settings, choice)
    return {
        "kv_sequences": choice.kv_sequences,
        "peak_gib": gib(peak.allocated_bytes),
        "planned_gib": gib(planned.allocated_bytes("rollout")),
        "device_gib": gib(peak.device_bytes),
    }


def grid(bench: Bench) -> None:
    """The planner's error on four layers."""
    errors: list[float | None] = []
    layers = {} if bench.is_tiny else {"num_hidden_layers": 4}
    ranks, tokens, tiles, chunks = ((4,), (256,), (64,), (64,)) if bench.is_tiny else GRID
    for rank in ranks:
        trainer = make_trainer(bench, "Llama-3.1-8B", rank=rank, **layers)
        for length, tile_rows, head_rows, offload in product(tokens, tiles, chunks, (False, True)):
            settings = settings_of(
                rank=rank, completions=2, prompt_tokens=0, completion_tokens=length, device=bench.device
            )
            choice = choice_of(sequences=1, offload=offload, tile_rows=tile_rows, head_rows=head_rows)
            errors.append(measured_update(bench, "planner", trainer, settings, choice).get("planner_error"))
        del trainer
    worst = largest([None if error is None else 100 * abs(error) for error in errors])
    bench.note("planner, errors", values=errors)
    bench.judge("planner, worst error of the training peak", worst, "%", at_most=3.0)


PARTS = {"stack": stack, "long": long, "small": small, "grid": grid}


def main(arguments: Sequence[str] | None = None) -> None:
    bench, wanted = begin(__doc__, arguments, choices=list(PARTS))
    for name in wanted:
        PARTS[name](bench)


if __name__ == "__main__":
    main()
