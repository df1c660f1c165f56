"""From storages that begin and end to the peak of each phase, and whose bytes they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Storage `number` begins with that many bytes, or with none ends. Number 0 marks that a phase begins."""

    number: int
    size_bytes: int
    phase: str


@dataclass(frozen=True)
class Peak:
    """The most live bytes of a phase, and whose they were."""

    bytes: int
    rows: dict[str, int]


def live_bytes(events: Iterable[Event]) -> int:
    """Bytes that are live after all of `events`."""
    sizes: dict[int, int] = {}
    return sum(_change(event, sizes) for event in events)


def peaks(events: Sequence[Event], names: Mapping[int, str], *, since: int) -> dict[str, Peak]:
    """The peak of each phase from event number `since`, with the bytes of each name at that moment."""
    most: dict[str, tuple[int, int]] = {}
    total = 0
    sizes: dict[int, int] = {}
    for i, event in enumerate(events):
        total += _change(event, sizes)
        if i >= since and total > most.get(event.phase, (-1, 0))[0]:
            most[event.phase] = total, i
    return {phase: Peak(size, rows_at(events, names, i)) for phase, (size, i) in most.items()}


def rows_at(events: Sequence[Event], names: Mapping[int, str], last: int) -> dict[str, int]:
    """Live bytes of each name after event number `last`."""
    sizes: dict[int, int] = {}
    for event in events[: last + 1]:
        _change(event, sizes)
    rows: Counter[str] = Counter()
    for number, size in sizes.items():
        rows[names[number]] += size
    return dict(rows.most_common())


def _change(event: Event, sizes: dict[int, int]) -> int:
    """By how many bytes `event` changes the total; keeps `sizes` of what is live."""
    if event.size_bytes:
        sizes[event.number] = event.size_bytes
        return event.size_bytes
    return -sizes.pop(event.number, 0)
