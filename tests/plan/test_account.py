"""logs/memory.json and metrics/memory.json: the plan of a run beside what its ledger measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlvr.plan.account import memory_account, memory_summary
from rlvr.plan.cards import Card, find_card
from rlvr.plan.planner import Plan
from rlvr.plan.run_settings import RunSettings, plan_run
from rlvr.plan.settings import PlanSettings
from rlvr.plan.shapes import find_shape
from rlvr.runtime.ledger import Ledger, Peak

SHAPE = find_shape("Qwen2.5-1.5B", Path(__file__).parents[2] / "presets" / "shapes")
SETTINGS = PlanSettings(
    method="lora", quantization="nf4", rank=16, weight_bytes=2, optimizer="adamw", completions=8,
    completions_per_step=16, prompt_tokens=256, completion_tokens=1792, has_reference=False, engine="vllm",
    shares_weights=False, has_fp8_cache=False, recompute="tiles", is_cuda=True, host_bytes=None, kept_share=0.0,
    states_on_host=None,
)  # fmt: skip
OWN = RunSettings(
    tokens_per_micro_batch=4096, share_prompts=False, tile_rows=2048, offload=False, head_rows=512, max_rows=16,
    minibatch=16,
)  # fmt: skip


@pytest.fixture
def made() -> Plan:
    return plan_run(SHAPE, SETTINGS, OWN, find_card("T4"), ())


@pytest.fixture
def ledger(made: Plan) -> Ledger:
    """As a GPU would leave it: the update needs 2 % less than planned, and the optimizer was not reached."""
    ledger = Ledger(torch.device("cpu"), [])
    planned = made.prediction.training_bytes
    ledger.peaks = {"load": Peak(10, 20, 30), "update": Peak(round(planned / 1.02), 2**33, 2**34)}
    return ledger


def test_every_phase_has_both_sides(made: Plan, ledger: Ledger) -> None:
    account = memory_account(made, made, ledger)
    phases = {phase["phase"]: phase for phase in account["phases"]}
    assert list(phases) == ["load", "rollout", "update", "optimizer"]
    assert phases["update"]["error_percent"] == 2.0
    assert (phases["update"]["reserved_bytes"], phases["update"]["device_bytes"]) == (2**33, 2**34)
    assert phases["update"]["planned_device_bytes"] >= made.prediction.device_bytes("backward")
    assert phases["optimizer"]["measured_bytes"] is None and phases["optimizer"]["error_percent"] is None
    assert json.loads(json.dumps(account)) == account


def test_what_is_measured_is_held_against_the_lengths_that_came(made: Plan, ledger: Ledger) -> None:
    """The cache of a rollout is as large as it may become, however long completions are."""
    seen = plan_run(SHAPE, replace(SETTINGS, completion_tokens=512), OWN, find_card("T4"), ())
    phases = {phase["phase"]: phase for phase in memory_account(made, seen, ledger)["phases"]}
    update, rollout = phases["update"], phases["rollout"]
    assert update["planned_bytes"] == made.prediction.training_bytes
    assert update["expected_bytes"] == seen.prediction.training_bytes != update["planned_bytes"]
    assert update["error_percent"] == round(100 * (update["expected_bytes"] / update["measured_bytes"] - 1), 1)
    assert rollout["expected_bytes"] == rollout["planned_bytes"] > seen.prediction.allocated_bytes("rollout")


def test_a_step_of_one_micro_batch_has_no_gradients_at_its_peak(made: Plan, ledger: Ledger) -> None:
    seen = plan_run(SHAPE, replace(SETTINGS, completion_tokens=64), OWN, find_card("T4"), ())
    assert seen.choice.sequences == SETTINGS.completions_per_step
    (update,) = (phase for phase in memory_account(made, seen, ledger)["phases"] if phase["phase"] == "update")
    gradients = 4 * SHAPE.adapter_parameters(SETTINGS.rank)
    assert update["expected_bytes"] == seen.prediction.training_bytes - gradients


def test_a_cpu_sees_nothing_of_an_engine(ledger: Ledger) -> None:
    settings = replace(SETTINGS, is_cuda=False)
    made = plan_run(SHAPE, settings, OWN, Card("this machine's memory", 2**36, True), ())
    for phase in memory_account(made, made, ledger)["phases"]:
        assert phase["expected_bytes"] < phase["planned_bytes"]


def test_the_rows_of_a_phase_add_up(made: Plan, ledger: Ledger) -> None:
    account = memory_account(made, made, ledger)
    for phase in account["phases"]:
        rows = [row["planned_bytes"] for row in account["rows"] if row["phase"] == phase["phase"]]
        assert sum(rows) == phase["planned_bytes"] and min(rows) > 0


def test_the_standard_implementation_by_its_formulas(made: Plan, ledger: Ledger) -> None:
    logits, weights, kv = memory_account(made, made, ledger)["standard"]
    assert logits["standard_bytes"] == 2 * 2 * 8 * 2048 * SHAPE.vocab_size
    assert logits["planned_bytes"] < logits["standard_bytes"] / 5
    assert weights["standard_bytes"] == 2 * SHAPE.parameters()
    assert 0 < weights["planned_bytes"] < weights["standard_bytes"] / 2  # the engine's copy has 4 bits
    assert kv["standard_bytes"] == 2048 * SHAPE.kv_bytes_per_token(2)


def test_metrics_are_few_numbers(made: Plan, ledger: Ledger) -> None:
    account = memory_account(made, made, ledger)
    summary = memory_summary(account, "device memory allocated", {"rollout": 1, "update": 2})
    assert summary["error_percent"] == {"rollout": None, "update": 2.0}
    assert summary["longest_context_tokens"] == account["longest_context_tokens"] == 32_768
    assert summary["peak_bytes"] == {"rollout": 1, "update": 2}
    assert len(json.dumps(summary).split(":")) - 1 <= 20
