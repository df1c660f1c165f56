"""What a run tells its user next to its results: notes and warnings."""

from __future__ import annotations


def note(text: str) -> None:
    """Print something worth knowing."""
    print(f"note: {text}", flush=True)


def warn(text: str) -> None:
    """Print something that may need a change."""
    print(f"warning: {text}", flush=True)
