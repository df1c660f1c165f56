"""The memory that a run is planned for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from rlvr.config import Config
from rlvr.plan.cards import GIB, this_host
from rlvr.plan.settings import DRIVER_BYTES
from rlvr.plan.shapes import all_shapes
from rlvr.stages.planning import card_of, run_settings
from rlvr.stages.resolve import resolve_training


@pytest.mark.parametrize(
    ("free_gib", "reserved_gib", "usable_gib"),
    [
        (23.4, 0.0, 24.0),  # an empty card: only our context, which the plan counts itself
        (20.0, 3.4, 24.0),  # what this process holds is planned, too
        (15.4, 0.0, 16.0),  # 8 GiB of another program
        (24.0, 0.0, 24.0),  # asked before there is a context
    ],
)
def test_what_other_programs_hold_of_a_card_is_not_planned_with(
    free_gib: float, reserved_gib: float, usable_gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert round(0.6 * GIB) == DRIVER_BYTES
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (round(free_gib * GIB), 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: round(reserved_gib * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "RTX 4090")
    monkeypatch.setattr("rlvr.stages.planning.has_bfloat16", lambda: True)
    card = card_of(torch.device("cuda"))
    assert card.memory_bytes / GIB == pytest.approx(usable_gib, abs=1e-6) and card.name == "RTX 4090"


def test_on_a_cpu_it_is_the_machines() -> None:
    assert card_of(torch.device("cpu")) == this_host()


def test_a_recurrent_model_shares_no_prompt(make_config: Callable[..., Config]) -> None:
    """... in the plan as in the run: no keys hold what its layers carry."""
    cfg, shape = make_config({"memory.share_prompts": "on"}), all_shapes()[0]
    for is_recurrent in (False, True):
        run = run_settings(cfg, resolve_training(cfg), replace(shape, is_recurrent=is_recurrent), minibatch=4)
        assert run.share_prompts is not is_recurrent
