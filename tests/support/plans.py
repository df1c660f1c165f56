"""Comparisons of plans that name the row that is off: planned bytes, measured bytes, percent."""

from __future__ import annotations

from collections.abc import Iterable

from rlvr.plan.cards import GIB
from rlvr.plan.planner import Plan
from rlvr.plan.predict import PlanRow


def table(rows: Iterable[PlanRow]) -> str:
    """A line a row: bytes, share and name."""
    rows = list(rows)
    total = sum(row.amount_bytes for row in rows) or 1
    return "\n".join(f"{row.amount_bytes:>18,} {row.amount_bytes / total:>6.1%}  {row.name}" for row in rows)


def assert_bytes(
    name: str, planned: float, measured: float, *, within: float = 0.0, rows: Iterable[PlanRow] = (), case: str = ""
) -> None:
    """`planned` lies within that share of `measured`, 0.05 for 5 %; `rows` are what the plan adds up."""
    __tracebackhide__ = True
    off = planned - measured
    if abs(off) <= within * abs(measured):
        return
    percent = f"{off / measured:+.2%}" if measured else "of nothing"
    lines = [
        f"{name}: planned {planned:,.0f} bytes, measured {measured:,.0f} bytes, {percent}, allowed ±{within:.2%}",
        *([case] if case else []),
        table(rows),
    ]
    raise AssertionError("\n".join(filter(None, lines)))


def assert_row(rows: Iterable[PlanRow], name: str, amount_bytes: float) -> None:
    """The row of that name has so many bytes."""
    __tracebackhide__ = True
    rows = list(rows)
    named = {row.name: row.amount_bytes for row in rows}
    if name not in named:
        raise AssertionError(f"no row {name!r} among\n{table(rows)}")
    assert_bytes(name, named[name], amount_bytes, rows=rows)


def assert_at_most(name: str, planned: float, limit: float, *, rows: Iterable[PlanRow] = ()) -> None:
    __tracebackhide__ = True
    if planned > limit:
        over = f"{planned / GIB:.3f} GiB, {(planned - limit) / limit:+.2%} of the limit {limit / GIB:.3f} GiB"
        raise AssertionError(f"{name}: planned {planned:,.0f} bytes, {over}\n{table(rows)}")


def assert_fits(plan: Plan) -> None:
    """The card holds the largest phase."""
    __tracebackhide__ = True
    if not plan.fits:
        raise AssertionError(f"does not fit: {_needs(plan)}")


def assert_too_much(plan: Plan, phase: str) -> None:
    """It does not fit, and `phase` is the largest."""
    __tracebackhide__ = True
    if plan.fits or plan.prediction.peak_phase != phase:
        raise AssertionError(f"{'fits' if plan.fits else 'is refused'}: {_needs(plan)}; {phase} was to be too much")


def _needs(plan: Plan) -> str:
    needs, phase = plan.prediction.peak_bytes, plan.prediction.peak_phase
    room = plan.card.memory_bytes
    return (
        f"{plan.shape.name}, {phase} needs {needs:,} bytes, {plan.card.name} has {room:,}, {needs / room - 1:+.2%}\n"
        f"{plan.choice}\n{table(plan.prediction.phases[phase])}"
    )
