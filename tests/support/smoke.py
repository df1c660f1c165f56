"""Texts of params.yaml for tests: the default, and the smoke run, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from rlvr.config import presets

ROOT = Path(__file__).parents[2]
OVERLAY = ROOT / "tests/smoke/overlay.yaml"


def default_params() -> str:
    """The project's params.yaml with the default preset."""
    return presets.with_preset((ROOT / "params.yaml").read_text(), presets.DEFAULT, ROOT / presets.FOLDER)


def smoke_params() -> str:
    """The default with tests/smoke/overlay.yaml written over it."""
    return presets.with_overlay(default_params(), OVERLAY.read_text())
