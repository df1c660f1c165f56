"""Comparisons that say where they fail and by how much; and when a result in low precision is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rlvr.logprob import LogitMap


def error(found: Tensor, truth: Tensor) -> float:
    """Largest distance of a component."""
    return float((found.double() - truth).abs().max())


def relative(found: Tensor, truth: Tensor) -> float:
    """‖Δ‖/‖truth‖."""
    return float((found.double() - truth).norm() / truth.norm())


def difference(actual: Tensor, expected: Tensor, bound: float | Tensor) -> str | None:
    """The worst component that is further off than `bound`, or None; with a bound by component, the worst by its own.

    "worst 3.1e-04 at [2, 17] (0.1234 against 0.1231), bound 1e-05; 3 of 80 components are beyond it"
    """
    if actual.shape != expected.shape:
        return f"shape {tuple(actual.shape)} against {tuple(expected.shape)}"
    if actual.numel() == 0:
        return None
    a, b = actual.detach().double().cpu(), expected.detach().double().cpu()
    limit = torch.as_tensor(bound, dtype=torch.float64).cpu().expand_as(a)
    distance = (a - b).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    beyond = ~(distance <= limit)
    if not beyond.any():
        return None
    excess = torch.where(beyond, distance / limit.clamp(min=torch.finfo(torch.float64).tiny), 0.0).nan_to_num()
    flat = int(excess.argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(flat), a.shape)]
    return (
        f"worst {distance.flatten()[flat]:.2g} at {place} ({a.flatten()[flat]:.8g} against {b.flatten()[flat]:.8g}), "
        f"bound {limit.flatten()[flat]:.2g}; {int(beyond.sum())} of {a.numel()} components are beyond it"
    )


def assert_close_where(actual: Tensor, expected: Tensor, bound: float | Tensor, *, case: str = "") -> None:
    """Every component of `actual` lies within `bound` of `expected`, which has its type or is the truth in float64."""
    __tracebackhide__ = True
    if expected.dtype not in (actual.dtype, torch.float64):
        raise AssertionError(_in_case(case, f"type {actual.dtype} against {expected.dtype}"))
    if found := difference(actual, expected, bound):
        raise AssertionError(_in_case(case, found))


def bit_difference(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """The first tensor of another type or with other numbers, and its worst component; None where all are the same."""
    _assert_same_names(actual, expected)
    for name, tensor in expected.items():
        if actual[name].dtype != tensor.dtype:
            return _in_case(name, f"type {actual[name].dtype} against {tensor.dtype}")
        if message := difference(actual[name], tensor, 0.0):
            return _in_case(name, message)
    return None


def assert_same_bits(
    actual: Tensor | Mapping[str, Tensor], expected: Tensor | Mapping[str, Tensor], *, case: str = ""
) -> None:
    """One tensor or several by name: the same names, and for each the same type and the same numbers."""
    __tracebackhide__ = True
    if message := bit_difference(_by_name(actual), _by_name(expected)):
        raise AssertionError(_in_case(case, message))


def assert_same_weights(actual: nn.Module, expected: nn.Module) -> None:
    """All parameters of two models, trained or not."""
    __tracebackhide__ = True
    assert_same_bits(dict(actual.named_parameters()), dict(expected.named_parameters()))


def relative_difference(actual: Tensor, expected: Tensor, bound: float) -> str | None:
    """‖Δ‖/‖expected‖ and the worst component where it is more than `bound`, or None."""
    if actual.shape != expected.shape:
        return f"shape {tuple(actual.shape)} against {tuple(expected.shape)}"
    a, b = actual.detach().double(), expected.detach().double()
    norm = float((a - b).norm() / b.norm())
    if norm <= bound:
        return None
    worst = difference(a, b, 0.0)
    return f"‖Δ‖/‖g‖ {norm:.2g}, bound {bound:.2g}; {worst.split(', bound')[0] if worst else 'no norm'}"


def assert_relative(actual: Tensor, expected: Tensor, bound: float, *, case: str = "") -> None:
    """‖Δ‖ is at most `bound` of ‖expected‖."""
    __tracebackhide__ = True
    if found := relative_difference(actual, expected, bound):
        raise AssertionError(_in_case(case, found))


def assert_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], bound: float) -> None:
    """The same parameters, and for each ‖Δ‖ of at most `bound` of ‖g‖; all that are further off are named."""
    __tracebackhide__ = True
    _assert_same_names(found, expected)
    wrong = [(name, relative_difference(found[name], g, bound)) for name, g in expected.items()]
    if lines := [f"{name}: {message}" for name, message in wrong if message]:
        raise AssertionError("\n".join(lines))


def disagreement(
    found: Sequence[Tensor],
    eager: Sequence[Tensor],
    truth: Sequence[Tensor],
    *,
    floor: float,
    names: Sequence[str],
) -> str | None:
    """The results further off than max(2 × error of eager torch in the same type, floor × largest true component)."""
    lines = []
    for name, f, e, t in zip(names[: len(truth)], found, eager, truth, strict=True):
        eager_error, largest = error(e, t), float(t.abs().max())
        if message := difference(f, t, max(2 * eager_error, floor * largest)):
            lines.append(
                f"{name}: {message}; eager torch is {eager_error:.2g} off, the floor {floor:.2g} of {largest:.2g}"
            )
    return "\n".join(lines) or None


def assert_agree(
    found: Sequence[Tensor],
    eager: Sequence[Tensor],
    truth: Sequence[Tensor],
    *,
    floor: float,
    names: Sequence[str],
    case: str = "",
) -> None:
    """A result in low precision is right when it is no more than twice as far from the truth as eager torch."""
    __tracebackhide__ = True
    if message := disagreement(found, eager, truth, floor=floor, names=names):
        raise AssertionError(_in_case(case, message))


def head_truth(
    hidden: Tensor, head: Tensor, target: Tensor, *, temperature: float, logit_map: LogitMap
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies by the formulas, in the type of the inputs."""
    y = logit_map.scale * (hidden @ head.T)
    if logit_map.soft_cap is not None:
        y = logit_map.soft_cap * torch.tanh(y / logit_map.soft_cap)
    logp = torch.log_softmax(y / temperature, -1)
    return logp[torch.arange(len(target)), target], -(logp.exp() * logp).sum(-1)


def _by_name(tensors: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {"": tensors} if isinstance(tensors, Tensor) else tensors


def _in_case(case: str, message: str) -> str:
    return f"{case}: {message}" if case else message


def _assert_same_names(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if actual.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
        raise AssertionError(f"missing {missing}, not expected {extra}")
