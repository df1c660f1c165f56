"""One optimizer step of a run, simulated: the project's own update at full size on tensors without memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import updates
from allocator import replayed
from models import config_of
from on_a_card import as_on_a_card
from peaks import Peak, peaks
from rlvr.attention import layout
from rlvr.attention.shared_prompt import BehindPrompt
from rlvr.batch import MicroBatch
from rlvr.memory.quantized import is_quantized, quantize
from rlvr.model.policy import Policy, for_training
from rlvr.plan.predict import GRADIENTS, REFERENCE, Prediction, predict, weight_rows
from rlvr.plan.settings import Choice, PlanSettings
from rlvr.plan.shapes import Shape
from rlvr.plan.work import Work
from rlvr.training.optim import Optimizer
from rlvr.types import Totals
from tracing import META, Trace

DTYPES = {2: torch.bfloat16, 4: torch.float32}
BEFORE = "before"
FETCHED = "memory/states.py fetch"  # of the host's states
STEP = "ids and log-probabilities of a step"


@dataclass(frozen=True)
class Simulation:
    """What an update allocates, computes and moves, and what the plan says of it.

    `reserved` has peaks of allocated and of reserved bytes by the kind of the allocator's segments; `traffic` bytes of
    kernels that only move, by the function that asks for them.
    """

    shape: Shape
    settings: PlanSettings
    choice: Choice
    prediction: Prediction
    resident_bytes: int
    peaks: dict[str, Peak]
    reserved: dict[str, tuple[int, int]]
    host_bytes: int
    work: dict[str, Work]
    traffic: Counter[str]
    seconds: float

    @property
    def peak_bytes(self) -> int:
        return max(peak.bytes for peak in self.peaks.values())

    def compared(self) -> dict[str, tuple[Peak, int]]:
        """Simulated peak and planned bytes of each phase that the plan has; the passes of a prompt are in "backward".

        "update" is the largest of all, the forward pass among them.
        """
        found = {name: self.peaks[name] for name in ("head", "optimizer")}
        found["backward"] = max((self.peaks[name] for name in ("prompt", "backward")), key=lambda peak: peak.bytes)
        pairs = {name: (peak, self.prediction.allocated_bytes(name)) for name, peak in found.items()}
        most = max(self.peaks.values(), key=lambda peak: peak.bytes)
        return pairs | {"update": (most, self.prediction.training_bytes)}


def simulate(shape: Shape, settings: PlanSettings, choice: Choice, *, has_flash: bool = True) -> Simulation:
    """A step after one that made the optimizer's states: all completions of a prompt, in micro-batches."""
    started = time.perf_counter()
    trace = Trace()
    with as_on_a_card(trace, has_flash=has_flash):
        policy = make_policy(shape, settings)
        optimizer = Optimizer(
            policy.trainable(), learning_rate=1e-6, warmup_steps=0, betas=(0.9, 0.99), weight_decay=0.0,
            schedule="constant", total_steps=1, kind=settings.optimizer, on_host=choice.states_on_host,
            scales_loss=False,
        )  # fmt: skip
        trainer = updates.Trainer(shape, settings.rank, policy, optimizer)
        tile_rows = None if settings.recompute == "none" else choice.tile_rows
        policy = for_training(
            policy, tile_rows=tile_rows, offload=choice.offload, keep_attention=choice.keep_attention, kernels="auto",
            logit_chunk_rows=choice.head_rows,
        )  # fmt: skip
        reference = policy.frozen_copy() if settings.has_reference else None
        hold_weights(trace, policy, reference, shape, settings)
        short = replace(settings, completions=1, prompt_tokens=0, completion_tokens=updates.WARM_TOKENS)
        with trace:
            updates.update(trainer, policy, *batch(shape, short, choice), trace.phase)
            hold_states(trace, optimizer, settings)
            micros, totals = batch(shape, settings, choice)
            trace.hold((x for micro in micros for x in vars(micro).values() if isinstance(x, Tensor)), STEP)
            first, resident_bytes = trace.begin(), trace.live_bytes
            updates.update(trainer, policy, micros, totals, trace.phase)
    states = f"optimizer states, {settings.optimizer}"
    names = {n: states if name.startswith(FETCHED) else name for n, name in trace.names.items()}
    found = {name: peak for name, peak in peaks(trace.events, names, since=first).items() if name != BEFORE}
    changes = [(event.number, event.size_bytes) for event in trace.events]
    reserved = {}
    for name, is_expandable in (("segments", False), ("expandable segments", True)):
        allocator = replayed(changes, is_expandable=is_expandable, emptied_at=first)
        reserved[name] = allocator.peak_allocated, allocator.peak_reserved
    return Simulation(
        shape, settings, choice, predict(shape, settings, choice), resident_bytes, found, reserved, trace.host_bytes,
        dict(trace.work), trace.traffic, time.perf_counter() - started,
    )  # fmt: skip


def make_policy(shape: Shape, settings: PlanSettings) -> Policy:
    """The model without memory, its weights quantised and under an adapter as a run has them."""
    with META:
        model = AutoModelForCausalLM.from_config(
            config_of(shape), dtype=DTYPES[settings.weight_bytes], attn_implementation=layout.NAME
        )
    if settings.quantization == "nf4":
        quantize(model, device=META)
    if settings.method == "lora":
        rank = settings.rank
        adapter = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter)
    policy = Policy(model.eval(), None, (0,), "auto", None)
    return replace(policy, body=policy.base.get_decoder())


def hold_weights(trace: Trace, policy: Policy, reference: Policy | None, shape: Shape, settings: PlanSettings) -> None:
    """Count what there is before the first step under the names of the plan's rows, and gradients as they come."""
    linear, rest, *adapter = (row.name for row in weight_rows(shape, settings))
    modules = [module for module in policy.body.layers.modules() if isinstance(module, nn.Linear)]
    linears = {id(module.weight): module for module in modules}
    for weight in policy.model.parameters():
        module = linears.get(id(weight))
        if settings.method == "lora" and weight.requires_grad:
            trace.hold([weight], adapter[0])
        elif module is None:
            trace.hold([weight], rest)
        else:
            trace.hold([weight, *(_scales(module) if is_quantized(module) else [])], linear)
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda w: trace.hold([w.grad], GRADIENTS))
    trace.hold(policy.model.buffers(), rest)
    if reference is not None:
        ours = {id(weight) for weight in policy.model.parameters()}
        trace.hold((weight for weight in reference.model.parameters() if id(weight) not in ours), REFERENCE)


def _scales(module: Any) -> list[Tensor]:
    state = module.weight.quant_state
    return [state.absmax, state.state2.absmax, state.offset, state.code, state.state2.code]


def hold_states(trace: Trace, optimizer: Optimizer, settings: PlanSettings) -> None:
    """Name the optimizer's states."""
    tensors = [x for states in optimizer.adamw.state.values() for x in states.values() if isinstance(x, Tensor)]
    trace.hold(tensors, f"optimizer states, {settings.optimizer}")


def batch(shape: Shape, settings: PlanSettings, choice: Choice) -> tuple[list[MicroBatch], Totals]:
    """The micro-batches of updates.py, their tensors without memory; what each token sees stays known on the host."""
    micros, totals = updates.micro_batches(shape, settings, choice, torch.device("cpu"))
    for micro in micros:
        if isinstance(micro.layout, BehindPrompt):
            prompt = micro.layout.prompt
            prompt.token_S, prompt.position_S = _empty(prompt.token_S), _empty(prompt.position_S)
    return [replace(micro, **dict(_without_memory(micro))) for micro in micros], totals


def _without_memory(micro: MicroBatch) -> Iterator[tuple[str, Any]]:
    for field in fields(micro):
        value = getattr(micro, field.name)
        if isinstance(value, Tensor):
            yield field.name, _empty(value)


def _empty(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=META)
