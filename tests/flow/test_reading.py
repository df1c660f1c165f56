"""How dvc.yaml and `dvc status` are read for Snakemake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvr import flow

TWO_STAGES = """
stages:
  first:
    desc: one
    cmd: x
    deps: [src/a.py]
    outs: [data/made]
    metrics:
      - metrics/first.json:
          cache: false
  second:
    desc: two
    cmd: y
    deps: [data/made/card.json, data/made, metrics/first.json, src]
    outs: [models]
    meta:
      snakemake: {threads: 4, resources: {gpu: 1}}
"""


def test_edges_threads_and_resources_come_from_dvc_yaml(tmp_path: Path) -> None:
    path = tmp_path / "dvc.yaml"
    path.write_text(TWO_STAGES)
    first, second = flow.load(path).values()
    assert (first.sources, first.upstream, first.threads, first.resources) == (["src/a.py"], [], 1, {})
    assert (second.sources, second.upstream) == (["src"], ["first"])
    assert (second.threads, second.resources) == (4, {"gpu": 1})
    assert second.stamp == ".pipeline/second.stamp"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"changed deps": {"src/a.py": "modified", "params.yaml": "new"}}], "it has not run yet"),
        (
            [{"changed deps": {"src/a.py": "modified", "params.yaml": {"grpo": "modified"}}}],
            "params.yaml:grpo modified, src/a.py modified",
        ),
        (
            [{"changed outs": {"models": "deleted"}}, {"changed deps": {f"src/{i}.py": "modified" for i in range(5)}}],
            "models deleted, src/0.py modified, src/1.py modified, src/2.py modified and 2 more",
        ),
        (["changed command"], "changed command"),
    ],
)
def test_the_reason_is_one_line(entries: list[Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flow, "dvc_status", lambda: {"first": entries, "data.dvc": ["changed outs"]})
    stage = flow.Stage("first", "one", 1, {})
    assert flow.sync({"first": stage}) == {"first": said}


def test_stamps_say_what_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = {name: flow.Stage(name, "", 1, {}) for name in ("clean", "stale")}
    monkeypatch.setattr(flow, "dvc_status", dict)
    flow.sync(stages)
    assert {Path(stage.stamp).stat().st_mtime for stage in stages.values()} == {flow.CLEAN_TIME}
    monkeypatch.setattr(flow, "dvc_status", lambda: {"stale": ["changed command"]})
    flow.sync(stages)
    assert [Path(stage.stamp).exists() for stage in stages.values()] == [True, False]
