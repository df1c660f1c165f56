"""What the GRPO stage makes of its settings before it trains."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlvr.config import Config
from rlvr.stages.grpo import SECTIONS, with_distinct_prompts
from rlvr.types import UserError

MakeConfig = Callable[..., Config]


def test_a_step_has_no_more_prompts_than_there_are_problems(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_config({"grpo.prompts_per_step": 8}).restricted(SECTIONS)
    assert with_distinct_prompts(cfg, 8) is cfg and not capsys.readouterr().out
    lowered = with_distinct_prompts(cfg, 3)
    assert lowered.grpo.prompts_per_step == 3 and lowered.compute == cfg.compute
    assert "note: grpo.prompts_per_step 8 is lowered to 3" in capsys.readouterr().out


def test_minibatches_that_do_not_divide_it_are_refused(make_config: MakeConfig) -> None:
    cfg = make_config({"grpo.prompts_per_step": 8, "grpo.minibatches_per_rollout": 2})
    with pytest.raises(UserError, match=r"only 3 training problems, which grpo\.minibatches_per_rollout 2 does not"):
        with_distinct_prompts(cfg, 3)
