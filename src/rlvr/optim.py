"""The optimizer: AdamW, a learning-rate schedule, and one clipped step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rlvr.types import Schedule, UserError


class Optimizer:
    """AdamW over named parameters. The learning rate warms up linearly; then it stays, or falls in a straight line or
    half a cosine to 0 after `total_steps`.
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
    ) -> None:
        self.parameters = list(parameters.values())
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.schedule, self.total_steps = schedule, total_steps
        self.adamw = torch.optim.AdamW(self.parameters, lr=0.0, betas=betas, weight_decay=weight_decay, fused=True)
        self.steps_taken = 0

    def rate(self) -> float:
        """The learning rate of the next step."""
        done = self.steps_taken
        if done < self.warmup_steps:
            return self.learning_rate * (done + 1) / self.warmup_steps
        left, falling = max(0, self.total_steps - done), max(1, self.total_steps - self.warmup_steps)
        if self.schedule == "linear":
            return self.learning_rate * left / falling
        if self.schedule == "cosine":
            return self.learning_rate * (1.0 - math.cos(math.pi * left / falling)) / 2
        return self.learning_rate

    def step_clipped(self, max_norm: float) -> float:
        """Scale the gradients down to a norm of `max_norm` where above, step, clear them; the norm before.

        A parameter without a gradient takes part with a gradient of 0: a step whose groups were all skipped is the
        step that computing them would have given. Raises UserError when the norm is not finite.
        """
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(self.parameters, max_norm).item()
        if not norm < float("inf"):
            raise UserError(
                f"the gradient norm is {norm} at optimizer step {self.steps_taken}: lower the learning rate"
            )
        for group in self.adamw.param_groups:
            group["lr"] = self.rate()
        self.adamw.step()
        torch.autograd.graph.increment_version(self.parameters)  # the fused kernel leaves it, linear.Linear reads it
        self.adamw.zero_grad(set_to_none=True)
        self.steps_taken += 1
        return norm

    def state(self) -> dict[str, Any]:
        return {"steps_taken": self.steps_taken, "adamw": self.adamw.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.steps_taken = state["steps_taken"]
        self.adamw.load_state_dict(state["adamw"])
