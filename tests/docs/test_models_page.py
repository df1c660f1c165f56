"""What presets say of the cards they need is what the planner says of their settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from make import models as plans
from rlvr.config import check_config, presets
from rlvr.plan.cards import GIB
from rlvr.plan.shapes import find_shape

ROOT = Path(__file__).parents[2]
COMMAND = "make docs"


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def found() -> list[plans.Planned]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return plans.all_planned()


def test_presets_and_page_are_fresh(found: list[plans.Planned]) -> None:
    assert len(found) == 9
    for one in found:
        text = (presets.FOLDER / f"{one.name}.yaml").read_text()
        assert plans.with_lines(text, one) == text, f"presets/{one.name}.yaml is stale: {COMMAND}"
    page = plans.PAGE.read_text()
    assert plans.with_table(page, found) == page, f"{plans.PAGE} is stale: {COMMAND}"


def test_each_fits_its_card_with_room_for_its_own_context(found: list[plans.Planned]) -> None:
    for one in found:
        assert one.settings.context <= one.shape.max_position_embeddings, one.name
        assert one.prediction.peak_bytes <= plans.CARD_BYTES[one.card_gb]
        assert all(tokens >= one.settings.context // 256 * 256 for gb, tokens in one.context_by_gb.items()
                   if gb >= one.card_gb), one.name  # fmt: skip


def test_the_longest_context_fits_and_the_next_does_not(found: list[plans.Planned]) -> None:
    cfg = check_config(presets.with_preset((ROOT / "params.yaml").read_text(), "llama-3.1-8b-gsm8k"), "llama")
    one = plans.planned("llama", cfg)
    within = {gb: tokens for gb, tokens in one.context_by_gb.items() if tokens < one.shape.max_position_embeddings}
    assert len(within) == 3
    for gb, tokens in within.items():
        fits, is_more = (
            plans.at_context(cfg, one.shape, context, at_once=1).peak_bytes for context in (tokens, tokens + 256)
        )
        assert fits <= plans.CARD_BYTES[gb] < is_more


def test_the_smallest_generates_a_whole_step_at_once_on_5_gb() -> None:
    name = "qwen2.5-1.5b-gsm8k"
    cfg = check_config(presets.with_preset((ROOT / "params.yaml").read_text(), name), name)
    settings = plans.gpu_settings(cfg)
    made = plans.at_context(cfg, find_shape(cfg.model.source), 2048, at_once=settings.completions_per_step)
    assert settings.context == 2048 and settings.shares_weights
    assert made.peak_bytes <= 5 * GIB


def test_other_settings_make_the_lines_stale(found: list[plans.Planned]) -> None:
    params = (ROOT / "params.yaml").read_text()
    text = presets.with_preset(params, "phi-4-gsm8k")
    edited = text.replace("max_completion_tokens: 1664", "max_completion_tokens: 3500")
    lines = plans.planned("phi-4-gsm8k", check_config(edited, "edited")).lines()
    assert edited != text and "24 GB with 3,884 tokens" in lines[0]
    file = (presets.FOLDER / "phi-4-gsm8k.yaml").read_text()
    one = next(one for one in found if one.name == "phi-4-gsm8k")
    assert plans.with_lines(file, replace(one, shape=replace(one.shape, max_position_embeddings=4096))) != file


def test_the_list_shows_the_card() -> None:
    shown = presets.names()
    assert "Fits on 12 GB with 4,096 tokens" in shown["llama-3.1-8b-gsm8k"]
    assert "Fits" not in shown["default"]


def test_a_page_without_marks_is_an_error(found: list[plans.Planned]) -> None:
    with pytest.raises(ValueError, match=r"docs/models.md must hold <!-- presets -->"):
        plans.with_table("# Models\n", found)
