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
from rlvr.plan.predict import PlanRow
from rlvr.plan.run_settings import RunSettings, plan_run
from rlvr.plan.settings import PlanSettings
from rlvr.plan.shapes import find_shape
from rlvr.runtime.ledger import Ledger, Peak
from support.plans import assert_bytes, assert_row

SHAPE = find_shape("Qwen2.5-1.5B", Path(__file__).parents[2] / "presets" / "shapes")
SETTINGS = PlanSettings(
    method="lora", quantization="nf4", rank=16, weight_bytes=2, optimizer="adamw", completions=8,
    completions_per_step=16, prompt_tokens=256, completion_tokens=1792, has_reference=False, engine="vllm",
    shares_weights=False, has_fp8_cache=False, recompute="tiles", is_cuda=True, host_bytes=None, kept_share=0.0,
    states_on_host=None,
)  # fmt: skip
OWN = RunSettings(
    tokens_per_micro_batch=4096, share_prompts=False, tile_rows=2048, offload=False, keep_attention=False,
    head_rows=512, max_rows=16, minibatch=16,
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
    ledger.peaks["update"] = Peak(made.prediction.training_bytes // 2, 2**33, 2**34)
    phases = {phase["phase"]: phase for phase in memory_account(made, seen, ledger)["phases"]}
    update, rollout = phases["update"], phases["rollout"]
    of_ids = 80 * 16 * (1792 - 512)  # 80 bytes for each token of 16 completions; a micro-batch is as long as before
    assert_bytes("update", update["planned_bytes"] - update["expected_bytes"], of_ids)
    assert update["error_percent"] == 99.9  # of the plan it would be 100.0
    assert_bytes("rollout", rollout["expected_bytes"], rollout["planned_bytes"], rows=made.prediction.phases["rollout"])
    assert_row(made.prediction.phases["rollout"], "KV cache, 16 at once", 28_672 * (2 * 256 + 16 * 1792))
    assert_row(seen.prediction.phases["rollout"], "KV cache, 16 at once", 28_672 * (2 * 256 + 16 * 512))


def test_a_step_of_one_micro_batch_has_no_gradients_at_the_head(made: Plan) -> None:
    seen = plan_run(SHAPE, replace(SETTINGS, completion_tokens=64), OWN, find_card("T4"), ())
    assert seen.choice.sequences == SETTINGS.completions_per_step
    wide, narrow = 1536 + 1536, 1536 + 256  # inputs and outputs of q and o, and of k and v
    gradients = 4 * 16 * 28 * (2 * wide + 2 * narrow + 3 * (1536 + 8960))
    assert_row(seen.prediction.phases["head"], "gradients", 0)
    assert_row(seen.prediction.phases["optimizer"], "gradients", gradients)
    assert made.choice.sequences < SETTINGS.completions_per_step
    assert_row(made.prediction.phases["head"], "gradients", gradients)


def test_a_cpu_sees_nothing_of_an_engine(ledger: Ledger) -> None:
    settings = replace(SETTINGS, is_cuda=False)
    made = plan_run(SHAPE, settings, OWN, Card("this machine's memory", 2**36, True), ())
    for phase in memory_account(made, made, ledger)["phases"]:
        assert_bytes(phase["phase"], phase["planned_bytes"] - phase["expected_bytes"], 1_142_926_720)  # 675,889,536 in
        # NF4 and 467,037,184 in 16 bits


def test_the_rows_of_a_phase_add_up(made: Plan, ledger: Ledger) -> None:
    account = memory_account(made, made, ledger)
    for phase in account["phases"]:
        rows = [PlanRow(row["row"], row["planned_bytes"]) for row in account["rows"] if row["phase"] == phase["phase"]]
        assert_bytes(phase["phase"], sum(row.amount_bytes for row in rows), phase["planned_bytes"], rows=rows)
        assert min(row.amount_bytes for row in rows) > 0


def test_the_standard_implementation_by_its_formulas(made: Plan, ledger: Ledger) -> None:
    logits, weights, kv = memory_account(made, made, ledger)["standard"]
    assert_bytes("logits", logits["standard_bytes"], 9_957_277_696)  # two copies in 16 bits: 8 × 2,048 × 151,936
    assert logits["planned_bytes"] < logits["standard_bytes"] / 5
    assert_bytes("weights", weights["standard_bytes"], 2 * 1_543_714_304)  # the published count
    assert 0 < weights["planned_bytes"] < weights["standard_bytes"] / 2  # the engine's copy has 4 bits
    assert_bytes("KV cache", kv["standard_bytes"], 2048 * 28 * 2 * 2 * 128 * 2)


def test_metrics_are_few_numbers(made: Plan, ledger: Ledger) -> None:
    account = memory_account(made, made, ledger)
    summary = memory_summary(account, "device memory allocated", {"rollout": 1, "update": 2})
    assert summary["error_percent"] == {"rollout": None, "update": 2.0}
    assert summary["longest_context_tokens"] == account["longest_context_tokens"] == 32_768
    assert summary["peak_bytes"] == {"rollout": 1, "update": 2}
    assert len(json.dumps(summary).split(":")) - 1 <= 20
