"""What presets say of the cards they need is what the planner says of their settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlvr import presets
from rlvr.config import check_config
from rlvr.memory.own import choice_of
from rlvr.memory.planner import with_context
from rlvr.memory.predict import predict
from rlvr.stages import preset_plans as plans

ROOT = Path(__file__).parent.parent
COMMAND = "python -m rlvr.stages.preset_plans"


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
    for gb, tokens in one.context_by_gb.items():
        peaks = []
        for context in (tokens, tokens + 256):
            settings = with_context(one.settings, context)
            choice = choice_of(plans.own_settings(cfg, one.shape), settings)
            peaks.append(predict(one.shape, settings, choice).peak_bytes)
        assert peaks[0] <= plans.CARD_BYTES[gb] < peaks[1]


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
