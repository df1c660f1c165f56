"""A run that cannot fit is refused with its plan, before any weights are looked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr import prepared
from rlvr.config import Config
from rlvr.memory.cards import GIB, Card
from rlvr.source import Source
from rlvr.stages import parts
from rlvr.types import Prompt, UserError

SHAPES = Path(__file__).parent.parent / "presets/shapes"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """host(model, gib): prepared data of a model that is nothing but its config.json, and so much memory."""

    def make(model: str, gib: float) -> None:
        folder = tmp_path / model
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(json.loads((SHAPES / f"{model}.json").read_text())))
        monkeypatch.chdir(tmp_path)
        prepared.BASE.mkdir(parents=True)
        Source(str(folder), None, None).write(prepared.BASE)
        monkeypatch.setattr(parts, "this_host", lambda: Card("this machine's memory", round(gib * GIB), True))

    return make


def test_a_model_that_cannot_fit_is_refused_before_its_weights(
    make_config: Callable[..., Config], make_prompts: Callable[..., list[Prompt]], host: Callable[[str, float], None]
) -> None:
    host("Llama-3.1-8B", 12)
    cfg = make_config({"model.adapter": "lora", "compute.dtype": "bfloat16", "compute.device": "cpu"})
    opening = parts.open_trainee(cfg, make_prompts(30, 40), completions=8, has_reference=False, start=None)
    with pytest.raises(UserError) as caught, opening:
        pass
    message = str(caught.value)
    assert "the model does not fit" in message and "embedding, head and norms" in message
    assert "try " in message and "nf4" in message
    assert "rule of thumb" in message


def test_what_would_fit_goes_on_to_its_weights(
    make_config: Callable[..., Config], make_prompts: Callable[..., list[Prompt]], host: Callable[[str, float], None]
) -> None:
    host("Qwen2.5-0.5B", 16)
    cfg = make_config({"model.adapter": "lora", "compute.dtype": "bfloat16", "compute.device": "cpu"})
    made = parts.planned(cfg, Source.read(prepared.BASE), make_prompts(30, 40), completions=8, has_reference=False)
    assert made.fits and made.settings.prompt_tokens == 40
    opening = parts.open_trainee(cfg, make_prompts(30, 40), completions=8, has_reference=False, start=None)
    with pytest.raises((UserError, OSError, ValueError)), opening:  # no tokenizer and no weights lie there
        pass
