"""A run that cannot fit is refused with its plan, before any weights are looked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import Config
from rlvr.model.source import Source
from rlvr.plan.cards import GIB, Card
from rlvr.plan.command import demand
from rlvr.problems import tables
from rlvr.stages import opening, planning
from rlvr.stages.resolve import resolve, resolve_training
from rlvr.types import Prompt, UserError
from support.plans import assert_fits, assert_too_much

EIGHT: dict[str, Any] = {"completions": 8, "at_once": 256, "minibatch": 256, "has_reference": False}
SHAPES = Path(__file__).parents[2] / "presets/shapes"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """host(model, gib): prepared data of a model that is nothing but its config.json, and so much memory."""

    def make(model: str, gib: float) -> None:
        folder = tmp_path / model
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(json.loads((SHAPES / f"{model}.json").read_text())))
        monkeypatch.chdir(tmp_path)
        tables.BASE.mkdir(parents=True)
        Source(str(folder), None, None).write(tables.BASE)
        monkeypatch.setattr(planning, "this_host", lambda: Card("this machine's memory", round(gib * GIB), True))

    return make


def test_a_model_that_cannot_fit_is_refused_before_its_weights(
    make_config: Callable[..., Config], make_prompts: Callable[..., list[Prompt]], host: Callable[[str, float], None]
) -> None:
    host("Llama-3.1-8B", 12)
    cfg = make_config({"model.adapter": "lora", "compute.dtype": "bfloat16", "compute.device": "cpu"})
    made = planning.plan_training(cfg, resolve_training(cfg), make_prompts(30, 40), **EIGHT)
    with pytest.raises(UserError) as caught, opening.open_trainee(cfg, resolve_training(cfg), made, start=None):
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
    made = planning.plan_training(cfg, resolve_training(cfg), make_prompts(30, 40), **EIGHT)
    assert_fits(made)
    assert made.settings.prompt_tokens == 40
    trainee = opening.open_trainee(cfg, resolve_training(cfg), made, start=None)  # the folder holds none
    with pytest.raises(UserError, match="tokenizer in data/prepared/base cannot be loaded"), trainee:
        pass


def test_settings_that_are_too_much_are_refused_with_values_that_fit(
    make_config: Callable[..., Config], make_prompts: Callable[..., list[Prompt]], host: Callable[[str, float], None]
) -> None:
    host("Qwen2.5-0.5B", 8)
    changes = {"model.adapter": "lora", "compute.dtype": "bfloat16", "compute.device": "cpu"}
    cfg = make_config(changes | {"memory.tokens_per_micro_batch": 8192})
    with pytest.raises(
        UserError, match=r"the head phase needs [\d.]+ GiB.*memory.tokens_per_micro_batch 8192 → (\d+)"
    ) as caught:
        planning.plan_training(cfg, resolve_training(cfg), make_prompts(30, 40), **EIGHT)
    fitting = int(str(caught.value).split("8192 → ")[1].split(",")[0])
    cfg = make_config(changes | {"memory.tokens_per_micro_batch": fitting, "rollout.max_rows": 256})
    assert_fits(planning.plan_training(cfg, resolve_training(cfg), make_prompts(30, 40), **EIGHT))


def test_a_plan_for_a_step_that_was_taken(
    make_config: Callable[..., Config], make_prompts: Callable[..., list[Prompt]], host: Callable[[str, float], None]
) -> None:
    """Its completions are as long as the log says, and those of skipped groups are in no micro-batch."""
    host("Qwen2.5-0.5B", 64)
    cfg = make_config({"compute.device": "cpu", "grpo.prompts_per_step": 4, "grpo.completions_per_prompt": 4})
    step = {"prompt/mean_length": 34.6, "completion/mean_length": 10.4, "groups/skipped": 3}
    longest, seen = (
        planning.plan_grpo(cfg, resolve_training(cfg), make_prompts(30, 40), step=like) for like in (None, step)
    )
    assert (longest.settings.prompt_tokens, longest.settings.completion_tokens) == (40, 48)
    assert (seen.settings.prompt_tokens, seen.settings.completion_tokens) == (35, 10)
    assert (longest.choice.sequences, seen.choice.sequences) == (16, 4)


def test_sampling_alone_needs_less_and_is_refused_too(
    make_config: Callable[..., Config], make_prompts: Callable[..., list[Prompt]], host: Callable[[str, float], None]
) -> None:
    cfg = make_config({"compute.dtype": "float32", "compute.device": "cpu", "rollout.max_rows": 8})
    host("Qwen2.5-3B", 18)
    made = planning.plan_sampling(cfg, resolve(cfg), Source.read(tables.BASE), make_prompts(30, 40), completions=4)
    assert_fits(made)
    assert_too_much(planning.plan_training(cfg, resolve_training(cfg), make_prompts(30, 40), **EIGHT), "backward")
    with pytest.raises(UserError, match=r"the model does not fit(.|\n)*load needs (.|\n)*rule of thumb"):
        demand(replace(made, card=Card("a small card", 5 * GIB, True)))
