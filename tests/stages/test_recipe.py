"""What makes another run of it, and what an interrupted run may continue under."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import Config
from rlvr.stages.provenance import BOOKKEEPING, flat, is_in_dvc, recipe

SECTIONS = ("compute", "model", "rollout", "rewards", "verifiers", "grpo", "memory")
Make = Callable[..., Config]


def made(make_config: Make, changes: dict[str, Any], **inputs: str) -> dict[str, Any]:
    return recipe(make_config(changes), "grpo", SECTIONS, **inputs)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory.tokens_per_micro_batch": 777},
        {"memory.tile_rows": 7, "memory.offload": "on"},
        {"memory.share_prompts": "on"},
        {"memory.kernels": "torch"},
        {"memory.optimizer_on_host": "on"},
        {"grpo.checkpoint_every": 3},
        {"grpo.log_completions_every": 3},
        {"grpo.max_unscorable": 0.5},
        {"rollout.max_rows": 333},
        {"rollout.max_logp_gap": 0.5},
        {"rollout.vllm.kv_cache_gib": 2.0},
        {"verifiers.seconds": 99.0},
        {"verifiers.workers": 2},
        {"report.examples": 1},
        {"sft.max_steps": 3},
    ],
)
def test_what_only_rounds_or_keeps_books_continues_a_run(changes: dict[str, Any], make_config: Make) -> None:
    assert made(make_config, changes) == made(make_config, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"grpo.learning_rate": 1e-3},
        {"grpo.steps": 7},
        {"memory.optimizer": "adamw_8bit"},
        {"rollout.temperature": 0.5},
        {"compute.seed": 1},
        {"compute.threads": 2},
        {"model.template.system_prompt": "another"},
        {"verifiers.memory_mib": 999},
        {"rewards.format_exact.weight": 2.5},
    ],
)
def test_what_decides_the_result_makes_another_run(changes: dict[str, Any], make_config: Make) -> None:
    assert made(make_config, changes) != made(make_config, {})


def test_inputs_code_and_versions_make_another_run(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(make_config, {}, data="a")
    assert first != made(make_config, {}, data="b")
    monkeypatch.setattr("rlvr.stages.provenance.code_hash", lambda stage: "edited")
    assert first != (edited := made(make_config, {}, data="a"))
    monkeypatch.setattr("rlvr.stages.provenance.versions", lambda: {"torch": "9.9"})
    assert edited != made(make_config, {}, data="a")
    monkeypatch.setattr("rlvr.stages.provenance.versions", lambda: {"torch": "9.9", "dvc": "9.9"})
    assert made(make_config, {}, data="a")["versions"] == {"torch": "9.9"}


def test_every_setting_without_effect_exists(make_config: Make) -> None:
    names = {name for name, _ in flat(make_config({}).model_dump())}
    for setting in BOOKKEEPING:
        assert any(name == setting or name.startswith(f"{setting}.") for name in names), setting


LOCK = """
schema: '2.0'
stages:
  grpo:
    cmd: x
    outs:
    - path: logs/train.jsonl
      hash: md5
      md5: {md5}
      size: 3
    - path: models/grpo
      md5: 0123.dir
"""


def test_results_in_dvc_are_known_by_their_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output, log = Path("logs/train.jsonl"), tmp_path / "log"
    log.write_bytes(b"abc")
    assert not is_in_dvc("grpo", output, log)
    md5 = hashlib.md5(b"abc").hexdigest()
    Path("dvc.lock").write_text(LOCK.format(md5=md5))
    assert is_in_dvc("grpo", output, log)
    assert not is_in_dvc("sft", output, log) and not is_in_dvc("grpo", Path("models/grpo"), log)
    log.write_bytes(b"abd")
    assert not is_in_dvc("grpo", output, log) and not is_in_dvc("grpo", output, tmp_path / "none")
    for damaged in ("", "{", "stages: 3", "stages: {grpo: }", "\0"):
        Path("dvc.lock").write_text(damaged)
        assert not is_in_dvc("grpo", output, log)
