"""Which layers to leave out of 4 bits: those that bring the model nearest to itself for the bytes that they cost."""
# T tokens · D hidden · V vocabulary

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rlvr.memory.quantized import decoder_linears, quantize, weight_bytes

HEAD_ROWS = 128  # tokens whose logits exist at a time


@dataclass(frozen=True)
class Candidate:
    """What it would bring to leave one layer unquantised. KL in nats a token."""

    name: str
    kl_drop: float
    extra_bytes: int
    is_kept: bool


@dataclass(frozen=True)
class DynamicChoice:
    """The layers that `nf4-dynamic` keeps as they were; `kl_*` against the model before, nats a token."""

    nf4_bytes: int
    budget_bytes: int
    kl_nf4: float
    kl_chosen: float
    candidates: tuple[Candidate, ...]

    @property
    def kept(self) -> list[str]:
        return [candidate.name for candidate in self.candidates if candidate.is_kept]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"kept": self.kept}


@torch.no_grad()
def choose(
    model: Any,
    hidden: Callable[[], Tensor],
    logits: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
    share: float,
) -> DynamicChoice:
    """Which layers of `model` to keep for at most `share` of the bytes that the decoder's layers take in NF4.

    `hidden()` runs the model on calibration text, [T, D]; `logits` is its head, [T, D] → [T, V], not quantised either
    way. Starting from everything in NF4, each layer is given back on its own and KL(before ‖ after) measured; then
    layers are taken greedily while they fit, by the drop of the KL per byte. The original weights stay where they are,
    on the host for a model that was loaded there, and visit `device` one at a time. The model is left in NF4 there.
    Raises UserError as quantize does.
    """
    original = decoder_linears(model)
    with _visiting(model, original):
        model.to(device)
        before_TD = hidden()
    quantized = quantize(model, device=device).bytes_4bit
    model.to(device)

    def kl() -> float:
        return _kl(before_TD, hidden(), logits)

    kl_nf4 = kl()
    measured = []
    for name, nf4_bytes in quantized.items():
        with _visiting(model, {name: original[name]}):
            measured.append(Candidate(name, kl_nf4 - kl(), weight_bytes(original[name]) - nf4_bytes, is_kept=False))
    budget_bytes = int(share * sum(quantized.values()))
    candidates = greedy(measured, budget_bytes)
    weights = {candidate.name: original[candidate.name] for candidate in candidates if candidate.is_kept}
    with _visiting(model, weights):
        return DynamicChoice(sum(quantized.values()), budget_bytes, kl_nf4, kl(), candidates)


class _Visitor(nn.Module):
    """A linear layer whose weight stays where it is, and comes over for each use."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.home = (layer,)  # no submodule: model.to(device) leaves it

    def forward(self, x: Tensor) -> Tensor:
        (layer,) = self.home
        return F.linear(x, layer.weight.to(x.device), None if layer.bias is None else layer.bias.to(x.device))


@contextmanager
def _visiting(model: Any, layers: Mapping[str, nn.Linear]) -> Iterator[None]:
    """Let `layers` stand in for what the model has under their names."""
    before = {name: model.get_submodule(name) for name in layers}
    for name, layer in layers.items():
        model.set_submodule(name, _Visitor(layer))
    yield
    for name, module in before.items():
        model.set_submodule(name, module)


def greedy(measured: list[Candidate], budget_bytes: int) -> tuple[Candidate, ...]:
    """The candidates, best first by their drop of the KL per byte; those that lower it are kept while they fit."""
    left_bytes, taken = budget_bytes, []
    for candidate in sorted(measured, key=lambda candidate: candidate.kl_drop / candidate.extra_bytes, reverse=True):
        is_kept = candidate.kl_drop > 0.0 and candidate.extra_bytes <= left_bytes
        left_bytes -= candidate.extra_bytes if is_kept else 0
        taken.append(replace(candidate, is_kept=is_kept))
    return tuple(taken)


def _kl(before_TD: Tensor, after_TD: Tensor, logits: Callable[[Tensor], Tensor]) -> float:
    """Mean of KL(before ‖ after) over the tokens, nats."""
    total = 0.0
    for before_CD, after_CD in zip(*(torch.split(x_TD, HEAD_ROWS) for x_TD in (before_TD, after_TD)), strict=True):
        before_CV, after_CV = (logits(x_CD).float().log_softmax(-1) for x_CD in (before_CD, after_CD))
        total += (before_CV.exp() * (before_CV - after_CV)).sum().item()
    return total / len(before_TD)
