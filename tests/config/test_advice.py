"""What is advised, one setting at a time: the default is silent, and each note has its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rlvr.config import Config
from rlvr.config.advice import advice, evaluation_advice, sft_advice

MakeConfig = Callable[..., Config]
SCRATCH: dict[str, Any] = {}
OWN = {"model.source": "some/model"}
ONCE = {"grpo.passes_per_rollout": 1, "grpo.minibatches_per_rollout": 1}
GSPO = {"grpo.loss_type": "gspo"}

# settings and facts; what the only note says, or None
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "the default": (SCRATCH, {}, None),
    "few steps": ({"grpo.steps": 299}, {}, "grpo runs 299 steps"),
    "enough steps": ({"grpo.steps": 300}, {}, None),
    "few steps by epochs": ({"grpo.steps": None, "grpo.epochs": 1}, {"steps": 125}, "grpo runs 125 steps"),
    "few problems": ({}, {"num_train": 499}, "499 training problems are few: 500 or more"),
    "enough problems": ({}, {"num_train": 500}, None),
    "gspo with the clip of grpo": (GSPO | {"grpo.epsilon": 0.2}, {}, "loss_type gspo with epsilon 0.2"),
    "gspo at the limit": (GSPO | {"grpo.epsilon": 0.01}, {}, None),
    "grpo with the clip of grpo": ({"grpo.loss_type": "grpo", "grpo.epsilon": 0.2}, {}, None),
    "small groups": ({"grpo.completions_per_prompt": 3}, {}, "groups of 3 completions"),
    "groups of four": ({"grpo.completions_per_prompt": 4}, {}, None),
    "a small model by reinforcement alone": (
        OWN,
        {"num_parameters": 1_499_999_999, "pre_finetuned": False},
        "a model under 1.5B parameters",
    ),
    "a small model with a pre-finetune": (OWN, {"num_parameters": 1_000_000}, None),
    "a model that is not small": (OWN, {"num_parameters": 1_500_000_000, "pre_finetuned": False}, None),
    "a model that was not loaded": (OWN, {"pre_finetuned": False}, None),
    "a model from scratch without a pre-finetune": (
        SCRATCH,
        {"num_parameters": 1_000_000, "pre_finetuned": False},
        "without the pre-finetune a model from scratch",
    ),
    "a warm-up as long as the run": (
        ONCE | {"grpo.warmup_steps": 300},
        {"steps": 300},
        "grpo.warmup_steps 300 for a run of 300",
    ),
    "a warm-up of passes": (
        ONCE | {"grpo.warmup_steps": 600, "grpo.passes_per_rollout": 2},
        {"steps": 300},
        "for a run of 600 optimizer steps",
    ),
    "a warm-up that ends": (ONCE | {"grpo.warmup_steps": 299}, {"steps": 300}, None),
    "an adapter at the rate of all weights": (
        OWN | {"model.adapter": "lora", "grpo.learning_rate": 1e-6},
        {},
        "grpo.learning_rate 1e-06 is a rate for training all weights",
    ),
    "an adapter at its rate": (OWN | {"model.adapter": "lora", "grpo.learning_rate": 5e-6}, {}, None),
    "all weights at their rate": (OWN | {"grpo.learning_rate": 1e-6}, {}, None),
    "a template of ours": (OWN, {"template_added": True}, "no chat template and got the pipeline's own, which it has"),
    "a template of ours without a pre-finetune": (
        OWN,
        {"template_added": True, "pre_finetuned": False},
        "never seen; do the pre-finetune",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_advice(case: str, make_config: MakeConfig) -> None:
    changes, facts, expected = CASES[case]
    cfg = make_config(changes)
    notes = advice(cfg, **({"num_train": 4000, "steps": cfg.grpo.steps, "pre_finetuned": True} | facts))
    if expected is None:
        assert notes == []
    else:
        (note,) = notes
        assert expected in note


def test_it_reads_what_the_grpo_stage_may_read(make_config: MakeConfig) -> None:
    cfg = make_config({"grpo.steps": 1}).restricted(["model", "grpo"])
    assert len(advice(cfg, 10, steps=cfg.grpo.steps, pre_finetuned=False, num_parameters=1, template_added=True)) == 5


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"evaluate.temperature": 0.6}, ["evaluate.temperature 0.6 is not rollout.temperature 1: mean@k"]),
        ({"sft.warmup_steps": 400}, ["sft.warmup_steps 400 for at most 400 steps"]),
        ({"sft.warmup_steps": 399}, []),
        ({"sft.warmup_steps": 500, "sft.enabled": False}, []),
    ],
)
def test_the_other_stages(changes: dict[str, Any], expected: list[str], make_config: MakeConfig) -> None:
    cfg = make_config(changes)
    found = sft_advice(cfg) + evaluation_advice(cfg)
    assert len(found) == len(expected)
    assert all(note.startswith(start) for note, start in zip(found, expected, strict=True))
