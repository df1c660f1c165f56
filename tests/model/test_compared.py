"""Every class of the list in docs/models.md gives, packed and sampled, what it gives by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.compared import CLASSES, distances

ROUNDING = 1e-5  # nats, in float32


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_log_probabilities_are_the_models_own(kind: str) -> None:
    _, packed, native = distances(kind)
    assert packed.nats < ROUNDING, f"packed rows: {packed}"
    assert native.nats < ROUNDING, f"the native sampler: {native}"


def test_the_page_lists_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    assert not [kind for kind in CLASSES if f"| {kind} |" not in page]
