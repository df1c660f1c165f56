"""Edited code is not passed over: kept tables, interrupted runs and settings' meaning follow the source."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from support.clone import Clone, Done, nothing_left

Finished = Callable[[str], Clone]


def edit(clone: Clone, path: str, old: str, new: str) -> None:
    file = clone.folder / path
    text = file.read_text()
    assert text.count(old) >= 1, f"{path} does not hold {old!r} any more"
    file.write_text(text.replace(old, new))


def test_a_new_column_of_the_evaluation_table_is_in_the_next_table(finished: Finished) -> None:
    """The tables of models that did not change are kept, but not when other code would make them."""
    clone = finished("clone")
    edit(
        clone, "src/rlvr/evaluate.py", '"id": problem.id,', '"id": problem.id, "words": len(problem.question.split()),'
    )
    assert clone.repro("dvc").ran[:1] == ["evaluate"]
    for table in (clone.folder / "evaluations").glob("*.parquet"):
        assert "words" in pd.read_parquet(table).columns, table.name


@pytest.mark.slow
def test_a_run_that_was_interrupted_does_not_continue_under_another_loss(
    first_runs: dict[str, tuple[Clone, Done]], tmp_path: Path
) -> None:
    clone = first_runs["dvc"][0].copy(tmp_path / "clone")
    clone.set("grpo.steps", 40)
    clone.set("grpo.checkpoint_every", 1)
    running = clone.start("dvc", "repro", "grpo")
    running.reaches_step(5)
    running.signal_group(signal.SIGKILL)
    running.ends()
    nothing_left(clone)
    stopped_at = clone.last_step()
    assert stopped_at >= 5
    edit(clone, "src/rlvr/loss/policy.py", "return loss, _statistics", "return -loss, _statistics")
    done = clone.repro("dvc", "grpo")
    shown = re.findall(r"^grpo (\d+)/40 ", done.text, re.MULTILINE)
    assert shown[0] == "1", f"step {shown[0]} came first: the checkpoint of step {stopped_at} was taken"
    assert [record["step"] for record in clone.json_lines("logs/train.jsonl")] == list(range(40))


@pytest.mark.parametrize("stage", ["grpo", "evaluate"])
def test_another_meaning_of_a_setting_makes_what_used_it_stale(finished: Finished, stage: str) -> None:
    clone = finished("clone")
    old = "return epsilon if epsilon_high is None else epsilon_high"
    edit(clone, "src/rlvr/types.py", old, "return epsilon")
    status = clone.run("dvc", "status", "--json", stage).text
    assert '"src/rlvr/types.py": "modified"' in status, status
