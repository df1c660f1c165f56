"""The plan next to the simulation: updates of two layers of real width, in every family and with every setting."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlvr.memory.offload import BLOCK_BYTES
from rlvr.plan.cards import find_card
from rlvr.plan.work import Work, estimate, planned_work, update_estimate

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'rlvr[qlora]'")
pytest.importorskip("triton", reason="triton is not installed: it has builds for Linux on x86 only")
SUITE = Path(__file__).parents[2] / "benchmarks/gpu"
TOLERANCE = 0.03  # of the simulated peak
VOCABULARY = "16384"  # so that what comes and goes is most of a peak
WORK_TOLERANCE = {"launches": 0.1}  # of the simulated work; of other kinds 0.05
BLOCKS_TOLERANCE = 0.2  # of the seconds where attention goes in blocks
PHASES = ("head", "backward", "optimizer", "update")


@dataclass(frozen=True)
class Setting:
    """Options of simulate.py."""

    name: str
    shape: str
    options: str

    @property
    def arguments(self) -> list[str]:
        return [self.shape, "--layers", "2", "--vocabulary", VOCABULARY, *self.options.split()]


SETTINGS = (
    Setting("inputs on the host", "Llama-3.1-8B", "--tokens 8192"),
    Setting("attention kept on the host", "Llama-3.1-8B", "--tokens 8192 --keep-attention"),
    Setting("attention kept on the card", "Gemma-3-1B", "--tokens 4096 --no-offload --keep-attention"),
    Setting(
        "a shared prompt, attention kept",
        "Qwen2.5-1.5B",
        "--tokens 6144 --prompt-tokens 4096 --sequences 2 --completions 4 --keep-attention",
    ),
    Setting("inputs on the card", "Llama-3.1-8B", "--tokens 4096 --sequences 2 --completions 4 --no-offload"),
    Setting("a group", "Qwen2.5-1.5B", "--tokens 2048 --prompt-tokens 512 --sequences 8 --no-offload"),
    Setting("a shared prompt", "Qwen2.5-1.5B", "--tokens 6144 --prompt-tokens 4096 --sequences 2 --completions 4"),
    Setting("norms of queries and keys", "Qwen3-4B", "--tokens 8192 --tile-rows 1024"),
    Setting("four norms, windows", "Gemma-3-1B", "--tokens 8192 --no-offload"),
    Setting("fused projections", "Phi-4", "--tokens 8192"),
    Setting("nothing recomputed", "Llama-3.2-3B", "--tokens 4096 --tile-rows 0"),
    Setting("all weights", "Qwen2.5-0.5B", "--tokens 8192 --full --bits 16 --no-offload"),
    Setting("states on the host", "Mistral-7B-v0.3", "--tokens 8192 --bits 16 --optimizer adamw --states-on-host"),
)

SHORT = Setting("few blocks of attention", "Llama-3.1-8B", "--tokens 3072")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SUITE)
        yield importlib.import_module("simulate")


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: setting.name.replace(" ", "-"))
def found(script: Any, request: pytest.FixtureRequest) -> Any:
    (case,), _ = script.cases(request.param.arguments)
    return script.simulate(case.shape, case.settings, case.choice)


@pytest.mark.parametrize("phase", PHASES)
def test_the_plan_is_the_simulation(script: Any, found: Any, phase: str) -> None:
    peak, planned = found.compared()[phase]
    difference = planned / peak.bytes - 1.0
    assert abs(difference) <= TOLERANCE, "\n".join([f"{difference:+.1%}", *script.row_lines(found, phase)])


def test_the_planned_work_is_the_simulated(found: Any) -> None:
    planned, counted = Work(), Work()
    for part in planned_work(found.shape, found.settings, found.choice, is_ampere=True).values():
        planned.add(part)
    for part in found.work.values():
        counted.add(part)
    for name, amount in vars(counted).items():
        assert getattr(planned, name) == pytest.approx(amount, rel=WORK_TOLERANCE.get(name, 0.05)), name


@pytest.mark.parametrize("setting", [SHORT, SETTINGS[2], SETTINGS[5]], ids=lambda setting: setting.shape)
def test_where_attention_goes_in_blocks(script: Any, setting: Setting) -> None:
    """... the kinds of work are others than the plan's, and the time that they take is about the same."""
    (case,), _ = script.cases(setting.arguments)
    counted, card = script.simulate(case.shape, case.settings, case.choice, has_flash=False).work, find_card("T4")
    planned = update_estimate(case.shape, case.settings, case.choice, card).seconds
    assert planned == pytest.approx(estimate(counted, card.speed).seconds, rel=BLOCKS_TOLERANCE)


def test_the_host_holds_what_is_planned(found: Any) -> None:
    blocks = 2 * BLOCK_BYTES  # of a prompt and of what comes behind it, not filled to their ends
    blocks *= 3 if found.choice.keep_attention else 1  # inputs, outputs of attention, log-sum-exps
    assert found.host_bytes == pytest.approx(found.prediction.host_bytes, rel=TOLERANCE, abs=blocks)
