"""The GPU suite runs in miniature, so that it works the first time a GPU is there."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.stages.code import imported, reached

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'rlvr[qlora]'")
SUITE = Path(__file__).parents[2] / "benchmarks/gpu"
SOURCE = Path(__file__).parents[2] / "src"
ALLOWED = {"torch", "triton", "transformers", "peft", "bitsandbytes", "liger_kernel", "trl", "rlvr"}
Lines = list[dict[str, Any]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script of the suite as a module; the suite's folder is searched first meanwhile."""
    monkeypatch.syspath_prepend(SUITE)
    return importlib.import_module


@pytest.fixture
def run(load: Callable[[str], Any], tmp_path: Path) -> Callable[..., Lines]:
    def figures(name: str, *arguments: str) -> Lines:
        out = tmp_path / "figures.jsonl"
        load(name).main([*arguments, "--tiny", "--out", str(out)])
        return [json.loads(line) for line in out.read_text().splitlines()]

    return figures


def named(lines: Lines, start: str) -> Lines:
    found = [line for line in lines if line["what"].startswith(start)]
    assert found, start
    return found


def test_link(run: Callable[..., Lines]) -> None:
    lines = run("link")
    assert all(line["milliseconds"] > 0.0 for line in named(lines, "product"))
    assert [line["value"] > 0.0 for line in lines if "is_met" in line] == [True, True]


def test_head(run: Callable[..., Lines]) -> None:
    lines = run("head")
    assert [line["what"] for line in lines if "failed" in line] in ([], ["loss, dapo, Liger"])
    float32 = [line for line in named(lines, "head, ours") if line.get("dtype") == "torch.float32"]
    assert all(line["logp_error"] <= 1e-5 and line["gradient_error"] <= 5e-6 for line in float32)
    naive, ours = named(lines, "head, naive")[0], named(lines, "head, ours")[0]
    assert {line["unit"] for line in named(lines, "head, naive") if "is_met" in line} == {"ms", "GiB"}
    assert 0 < ours["above_bytes"] < naive["above_bytes"]
    losses = [line["loss"] for line in named(lines, "loss, dapo") if "loss" in line]
    assert len(losses) >= 2 and max(losses) - min(losses) <= 1e-3


def test_layer(run: Callable[..., Lines]) -> None:
    lines = run("layer")
    assert all(line["milliseconds"] > 0.0 for line in named(lines, "attention backward, ours"))
    assert not [line for line in named(lines, "layer") if "failed" in line]
    size = {line["what"]: line["kb_per_token"] for line in lines if "kb_per_token" in line}
    assert size["layer, fused, tiles of 32"] < size["layer, fused, one piece"] < size["layer, recomputed"]
    beside = [line["value"] / float(line["target"].removeprefix("≤ ")) for line in lines if "is_met" in line]
    assert len(beside) == 3 and all(0.8 < ratio < 1.2 for ratio in beside)


def test_correctness(run: Callable[..., Lines]) -> None:
    lines = run("correctness", "loss")
    assert lines[0]["passed"] == 1 and lines[1]["value"] == 0


def test_long_sequences(run: Callable[..., Lines]) -> None:
    lines = run("updates", "stack", "long")
    assert not [line for line in lines if "failed" in line]
    updates = [line for line in lines if "phases" in line]
    assert [line["choice"]["offload"] for line in updates] == [False, True, False, True, True]
    assert {"prompt", "forward", "head", "backward", "optimizer"} == updates[0]["phases"].keys()
    assert isinstance(named(lines, "Llama-3.1-8B, 1 × 20K, slowdown")[0]["value"], float)


def test_the_usual_way(run: Callable[..., Lines]) -> None:
    lines = run("usual")
    assert [line["what"] for line in lines if "failed" in line] in (
        [],
        ["Llama-3.1-8B, 1 × 20K, the usual way, loss by Liger"],
    )
    assert lines[0]["peak_gib"] > 0.0


def test_small_models(run: Callable[..., Lines]) -> None:
    lines = run("updates", "small")
    assert not [line for line in lines if "failed" in line]
    assert [line["model"] for line in lines if "phases" in line] == ["Qwen2.5-1.5B", "Phi-4"]
    assert all(line["peak_gib"] > 0.0 for line in lines if line["what"].endswith("rollout"))


def test_grid(run: Callable[..., Lines]) -> None:
    errors = named(run("updates", "grid"), "planner, errors")[0]["values"]
    assert len(errors) == 2 and all(abs(error) < 0.05 for error in errors)


def test_a_part_that_hangs_or_fails_stops_nothing(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = load("suite")
    for name, last in (("stuck", "import time; time.sleep(600)"), ("broken", "raise SystemExit('no such kernel')")):
        script = tmp_path / f"{name}.py"
        figure = {"what": "speed", "value": 12.5, "unit": "GB/s", "target": "≥ 10", "is_met": True}
        script.write_text(f"import sys; open(sys.argv[2], 'w').write({json.dumps(figure)!r}); {last}")
        monkeypatch.setitem(suite.PARTS, name, suite.Part(str(script), (), 3.0))
    assert suite.main(["stuck", "broken", "--tiny", "--results", str(tmp_path / "results")]) == 1
    (path,) = (tmp_path / "results").rglob("*.json")
    written = json.loads(path.read_text())
    assert [part["outcome"] for part in written["parts"]] == ["stopped after 3 s", "failed with exit code 1"]
    assert all(part["figures"][0]["value"] == 12.5 for part in written["parts"])
    assert "no such kernel" in written["parts"][1]["log"]
    assert {"torch", "triton", "bitsandbytes"} <= written["versions"].keys() and {"commit", "driver"} <= written.keys()
    assert "12.5 GB/s" in capsys.readouterr().out


def test_it_imports_little() -> None:
    """So that it runs on a machine without the libraries of the configuration and the data."""
    files = [file for file in SUITE.glob("*.py") if file.stem not in ("vllm_engine", "simulate")]
    own = {file.stem for file in files}
    for file in files:
        names = imported(file)
        assert {name.split(".")[0] for name in names} <= ALLOWED | sys.stdlib_module_names | own, file
        files_below = {below for name in names if name.startswith("rlvr.") for below in reached(name, SOURCE)}
        tops = {top for below in files_below for top in imported(below, top_level_only=True)}
        heavy = {"pydantic", "datasets", "pandas", "pyarrow", "ruamel", "typer", "rich", "rlvr.config"}
        assert not heavy & ({top.split(".")[0] for top in tops} | tops), file
