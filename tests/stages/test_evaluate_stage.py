"""What evaluate keeps when its verifier fails: the answers of every model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from rlvr.chat import TAGS, render_target
from rlvr.config import Config
from rlvr.evaluate import answers_table
from rlvr.problems import tables
from rlvr.stages import evaluate
from rlvr.stages.evaluate import _is_whole, _judge, _read, _write
from rlvr.types import Completion, Group, Problem, Prompt, UserError


def problem(gold: str) -> Problem:
    return Problem("5+3", "What is 5+3?", gold, "5+3 is 8", 1)


def answers() -> pd.DataFrame:
    """The answer 8, greedy and twice sampled."""
    text = render_target(problem("8"), TAGS["working_out"])
    completion = Completion(torch.arange(3), torch.zeros(3), text, False)
    prompt = Prompt(problem("8"), (1,))
    return answers_table([Group(prompt, (completion,))], [Group(prompt, (completion, completion))])


def test_a_fault_costs_no_answer(make_config: Callable[..., Config], tmp_path: Path) -> None:
    names = ("base", "grpo")
    asked = {name: tmp_path / f"{name}.answers" for name in names}
    files = {name: tmp_path / f"{name}.parquet" for name in names}
    for file in asked.values():
        _write(answers(), file)
    cfg = make_config({"model.template.tags": "working_out"})
    with pytest.raises(UserError, match=r"base: .* could not be verified(?s:.*)All answers are kept"):
        _judge(cfg, asked, files, [problem("see the figure")])
    assert [file.exists() for file in (*files.values(), *asked.values())] == [False, False, True, True]
    _judge(cfg, asked, files, [problem("8")])
    table = _read(files["grpo"])
    assert (table["correct"].tolist(), table["num_correct"].tolist()) == ([True], [2])
    assert not asked["base"].exists()


@pytest.mark.parametrize("place", [0, 31, 32, 500, -1])
def test_a_damaged_table_is_made_again(place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "base.parquet"
    assert not _is_whole(file)
    _write(answers(), file)
    assert _is_whole(file) and _read(file)["id"].tolist() == ["5+3"]
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert not _is_whole(file) and f"{file} is damaged" in capsys.readouterr().out
    file.write_bytes(content[:20])
    assert not _is_whole(file)


def test_other_versions_make_another_table(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tables.BASE.mkdir(parents=True)
    (tables.FOLDER / "evaluation.parquet").touch()
    cfg, places = make_config(), []
    for versions in ({"torch": "1", "dvc": "1"}, {"torch": "1", "dvc": "2"}, {"torch": "2", "dvc": "2"}):
        monkeypatch.setattr("rlvr.stages.provenance.versions", lambda versions=versions: versions)
        places.append(evaluate._kept(cfg, None))
    assert places[0] == places[1] != places[2]
