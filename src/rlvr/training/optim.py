"""The optimizer: AdamW, a learning-rate schedule, loss scaling for float16, and one clipped step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.memory.states import HostStates
from rlvr.types import OptimizerKind, Schedule, UserError


@dataclass
class LossScale:
    """What a loss is multiplied by, so that its gradients do not vanish in float16 (Micikevicius et al. 2018,
    arXiv 1710.03740); the numbers are those of torch.amp.GradScaler.

    It halves with every step whose gradients overflow, and doubles after 2,000 steps in a row without one. `skipped`
    counts the former.
    """

    value: float = 2.0**16
    good_steps: int = 0
    skipped: int = 0

    def note(self, *, is_finite: bool) -> None:
        """Take account of a step. Raises UserError when even a scale of 1 is too much, and takes no account of that."""
        if is_finite:
            self.good_steps += 1
            if self.good_steps == 2000:
                self.value, self.good_steps = self.value * 2, 0
        elif self.value < 2.0:
            raise UserError(
                "gradients overflow float16 even at the smallest loss scale: the model needs a wider range; set "
                "compute.dtype to float32, or to bfloat16 on a card that has it, or lower the learning rate"
            )
        else:
            self.value, self.good_steps, self.skipped = self.value / 2, 0, self.skipped + 1


class Optimizer:
    """AdamW over named parameters. The learning rate warms up linearly; then it stays, or falls in a straight line or
    half a cosine to 0 after `total_steps`.

    `kind` adamw keeps two states of the type of each weight; adamw_8bit keeps them in 8 bits, a scale for each 256, but
    for parameters of fewer than 4,096 numbers (Dettmers et al. 2021, arXiv 2110.02861). `on_host`: the states are in
    the host's memory between steps. `scales_loss`: the gradients come from backward, through float16. Raises
    UserError when adamw_8bit is not installed.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        learning_rate: float,
        warmup_steps: int,
        betas: tuple[float, float],
        weight_decay: float,
        schedule: Schedule,
        total_steps: int,
        kind: OptimizerKind,
        on_host: bool,
        scales_loss: bool,
    ) -> None:
        self.parameters = list(parameters.values())
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.schedule, self.total_steps = schedule, total_steps
        self.adamw = _adamw(self.parameters, kind, betas=betas, weight_decay=weight_decay)
        self.host = HostStates() if on_host else None
        self.loss_scale = LossScale() if scales_loss else None
        self.steps_taken = 0

    @property
    def moves(self) -> int:
        """How often a weight, a state or the loss scale was changed."""
        return self.steps_taken + (0 if self.loss_scale is None else self.loss_scale.skipped)

    def rate(self) -> float:
        """The learning rate of the next step."""
        done = self.steps_taken
        if done < self.warmup_steps:
            return self.learning_rate * (done + 1) / self.warmup_steps
        remaining, falling = max(0, self.total_steps - done), max(1, self.total_steps - self.warmup_steps)
        if self.schedule == "linear":
            return self.learning_rate * remaining / falling
        if self.schedule == "cosine":
            return self.learning_rate * (1.0 - math.cos(math.pi * remaining / falling)) / 2
        return self.learning_rate

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`; times the loss scale, where there is one, until step_clipped."""
        torch.autograd.backward(loss if self.loss_scale is None else loss * self.loss_scale.value)

    def step_clipped(self, max_norm: float) -> float | None:
        """Scale the gradients down to a norm of `max_norm` where above, step, clear them; the norm before.

        A parameter without a gradient takes part with a gradient of 0: a step whose groups were all skipped is the
        step that computing them would have given. With a loss scale, a step whose norm is not finite is left out: no
        weight, state or learning rate moves, the scale halves, and the norm is None. Without one it raises UserError.
        """
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.loss_scale is not None:
                parameter.grad.div_(self.loss_scale.value)
        norm = nn.utils.clip_grad_norm_(self.parameters, max_norm).item()
        is_finite = norm < float("inf")
        if self.loss_scale is not None:
            self.loss_scale.note(is_finite=is_finite)
        elif not is_finite:
            raise UserError(
                f"the gradient norm is {norm} at optimizer step {self.steps_taken}: lower the learning rate"
            )
        if is_finite:
            self._step()
        self.adamw.zero_grad(set_to_none=True)
        return norm if is_finite else None

    def _step(self) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = self.rate()
        if self.host is not None:
            self.host.fetch(self.adamw)
        self.steps_taken += (
            1  # before the first weight moves, so that an error in the middle is seen to have moved some
        )
        self.adamw.step()
        if self.host is not None:
            self.host.park(self.adamw)
        torch.autograd.graph.increment_version(self.parameters)  # the fused kernel leaves it, linear.Linear reads it

    def record(self) -> dict[str, float | None]:
        """What the log says of the loss scale; None and 0 where there is none."""
        scale = self.loss_scale
        return {
            "loss_scale": None if scale is None else scale.value,
            "skipped_optimizer_steps": 0 if scale is None else scale.skipped,
        }

    def state(self) -> dict[str, Any]:
        scale = None if self.loss_scale is None else asdict(self.loss_scale)
        return {"steps_taken": self.steps_taken, "adamw": self.adamw.state_dict(), "loss_scale": scale}

    def load_state(self, state: dict[str, Any]) -> None:
        self.steps_taken = state["steps_taken"]
        self.adamw.load_state_dict(state["adamw"])
        if self.loss_scale is not None:
            self.loss_scale = LossScale(**state["loss_scale"])
        if self.host is not None:
            self.host.park(self.adamw)


def _adamw(
    parameters: list[nn.Parameter], kind: OptimizerKind, *, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr=0.0, betas=betas, weight_decay=weight_decay, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit  # noqa: PLC0415
    except ImportError:
        raise UserError(
            "memory.optimizer adamw_8bit needs bitsandbytes: pip install 'rlvr[qlora]', or use adamw"
        ) from None
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, lr=0.0, betas=betas, weight_decay=weight_decay)
    return optimizer
