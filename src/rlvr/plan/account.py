"""What a run was planned to need, what it needed, and what the standard implementation's formulas say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlvr.plan.grids import choices_of
from rlvr.plan.planner import Plan, longest_context
from rlvr.plan.predict import ENGINE_COPY, LOGITS, PlanRow, kv_cache_bytes
from rlvr.plan.published import standard_logits_bytes, standard_weights_bytes

if TYPE_CHECKING:
    from rlvr.runtime.ledger import Ledger

PHASES = {"load": ("load",), "rollout": ("rollout",), "update": ("head", "backward"), "optimizer": ("optimizer",)}
OF_LENGTHS = ("update", "optimizer")  # that shrink with the sequences: a rollout's cache is as large as it may become
MAIN = ("rollout", "update")  # the phases that metrics show


def memory_account(plan: Plan, counted: Plan, ledger: Ledger) -> dict[str, Any]:
    """logs/memory.json: the plan and the ledger's peaks, in bytes, and the rows of the published table for this run.

    `plan` is for the longest sequences, as before the run, and `counted` for those that came. `expected_bytes` is of
    the latter, and `error_percent` compares it with `measured_bytes`. All are of live tensors; None where a phase was
    not counted. `device_bytes` is what the card had in use, or, on a CPU, the process's resident memory.
    """
    settings = plan.settings
    longest = longest_context(plan.shape, replace(settings, recompute="tiles"), plan.card)
    return {
        "card": plan.card.name,
        "card_bytes": plan.card.memory_bytes,
        "is_cuda": settings.is_cuda,
        "context_tokens": settings.context,
        "longest_context_tokens": max(longest, settings.context),
        "settings": choices_of(plan),
        "phases": [_phase(name, plan, counted, ledger) for name in PHASES],
        "rows": [
            {"phase": name, "row": row.name, "planned_bytes": row.amount_bytes}
            for name in PHASES
            for row in _rows(name, plan)
            if row.amount_bytes
        ],
        "standard": _standard(plan),
    }


def memory_summary(account: Mapping[str, Any], kind: str, peak_bytes: Mapping[str, int]) -> dict[str, Any]:
    """metrics/memory.json: a few numbers to compare runs by; `peak_bytes` over all steps is of `kind`."""
    phases = {phase["phase"]: phase for phase in account["phases"]}
    columns = ("measured_bytes", "planned_bytes", "expected_bytes", "error_percent")
    return {
        "kind": kind,
        "card": account["card"],
        "peak_bytes": dict(peak_bytes),
        **{column: {name: phases[name][column] for name in MAIN} for column in columns},
        "longest_context_tokens": account["longest_context_tokens"],
    }


def _phase(name: str, plan: Plan, counted: Plan, ledger: Ledger) -> dict[str, Any]:
    peak = ledger.peaks.get(name)
    measured = peak.allocated_bytes if peak else None
    planned = sum(row.amount_bytes for row in _rows(name, plan))
    basis = counted if name in OF_LENGTHS else plan
    expected = sum(row.amount_bytes for row in _rows(name, basis) if _is_counted(row, basis))
    return {
        "phase": name,
        "planned_bytes": planned,
        "expected_bytes": expected,
        "measured_bytes": measured,
        "error_percent": round(100 * (expected / measured - 1), 1) if measured else None,
        "reserved_bytes": peak.reserved_bytes if peak else None,
        "planned_device_bytes": max(plan.prediction.device_bytes(part) for part in PHASES[name]),
        "device_bytes": peak.device_bytes if peak and peak.device_bytes else ledger.process_bytes.get(name),
    }


def _is_counted(row: PlanRow, basis: Plan) -> bool:
    """Whether the ledger counts the row: all but an engine's memory on a CPU."""
    return basis.settings.is_cuda or row.name != ENGINE_COPY


def _rows(name: str, plan: Plan) -> tuple[PlanRow, ...]:
    """The rows of the part of a run's phase that needs most."""
    largest = max(PHASES[name], key=plan.prediction.allocated_bytes)
    return plan.prediction.phases[largest]


def _standard(plan: Plan) -> list[dict[str, Any]]:
    """The rows of the published table that have a formula, for this run: a group or more in a micro-batch, KV of one.

    The table's largest row, training, follows from nothing that was published.
    """
    shape, settings = plan.shape, plan.settings
    together = max(settings.completions, plan.choice.sequences)
    logits = standard_logits_bytes(shape, completions=together, context=settings.context)
    planned = {row.name: row.amount_bytes for row in plan.prediction.phases["head"]}
    kv = settings.context * shape.kv_bytes_per_token(2)
    own_kv = kv_cache_bytes(shape, settings, plan.choice.kv_sequences)
    return [
        {"row": "logits of a micro-batch", "standard_bytes": logits, "planned_bytes": planned[LOGITS]},
        {
            "row": "weights for inference",
            "standard_bytes": standard_weights_bytes(shape),
            "planned_bytes": planned.get(ENGINE_COPY, 0),
        },
        {"row": "KV cache, of one sequence and of ours", "standard_bytes": kv, "planned_bytes": own_kv},
    ]
