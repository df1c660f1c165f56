"""Tests that run programs in bubblewrap."""

from __future__ import annotations

import pytest

from rlvr.types import UserError
from rlvr.verifiers.sandbox import run as sandbox


def need_bubblewrap() -> None:
    """Skip the test, with the reason, where bubblewrap cannot isolate programs."""
    try:
        sandbox.check("bubblewrap")
    except UserError as error:
        pytest.skip(str(error))
