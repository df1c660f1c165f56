"""Format numbers for readers."""

from __future__ import annotations

import math

NONE = "–"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def percent_interval(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def percent_points(difference: float, low: float, high: float) -> str:
    """A difference of shares, signed, with its interval."""
    return f"{100 * difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def number(value: float | None, digits: int) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """A duration in seconds below two minutes, else in hours, minutes and seconds."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(num_bytes: float | None) -> str:
    if num_bytes is None or math.isnan(num_bytes):
        return NONE
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
