"""The whole report from small inputs: a normal run, one step, none, and no pre-finetune."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlvr.evaluate import summary
from rlvr.report.build import build_report
from rlvr.report.conclusion import Conclusion
from rlvr.report.figures import reward_functions, styled
from rlvr.report.load import load_inputs
from rlvr.types import UserError

PROJECT = Path(__file__).parents[2]
WEIGHTS = {"answer": 1.0, "style": 0.0, "always": 2.0}
Built = tuple[Conclusion, dict[Path, bytes], str]
MIB = 2**20
EVIL = '<script>alert("1")</script> & <SOLUTION>4</SOLUTION>'


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def step_record(step: int, steps: int) -> dict[str, Any]:
    share = (step + 1) / steps
    names = {
        "step": step, "loss": 0.01, "accuracy": share, "reward/mean": 3 * share, "reward/std": 1.0,
        "advantage/zero_std_groups": 1, "completion/mean_length": 5.0, "completion/max_length": 9,
        "completion/truncated": 0.0, "policy/entropy": 1 - share, "policy/clip_low": 0.0, "policy/clip_high": 0.01,
        "grad_norm": 0.2, "learning_rate": 1e-4,
    }  # fmt: skip
    return names | {f"reward/{name}/mean": share for name in WEIGHTS}


def completion_table(step: int) -> pd.DataFrame:
    correct = [True, False, True, False]
    values = {
        "step": step,
        "problem_id": ["a", "a", "b", "b"],
        "text": "x",
        "correct": correct,
        "reward": [3.0, 0.0, 2.0, 1.0],
    }
    rewards = {"answer": [1.0, 0.0, 1.0, 0.0], "style": [0.5, 0.4, 0.5, 0.6], "always": [1.0] * 4}
    return pd.DataFrame(values | {f"reward/{name}": points for name, points in rewards.items()})


def evaluation(num_correct: list[int], *, text: str, levels: int) -> pd.DataFrame:
    count = len(num_correct)
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(count)],
            "question": [f"What is {i}+{i}?" for i in range(count)],
            "answer": [str(2 * i) for i in range(count)],
            "level": [1 + i % levels for i in range(count)],
            "text": text,
            "correct": [right >= 2 for right in num_correct],
            "correct_lenient": [right >= 2 for right in num_correct],
            "has_format": True,
            "num_tokens": 5,
            "is_truncated": False,
            "num_samples": 4,
            "num_correct": num_correct,
        }
    )


def make_run(root: Path, *, steps: int = 40, sft: bool = True, device: str = "cpu", levels: int = 1) -> Path:
    """The outputs of the other stages, as small as the report can read them; accuracy rises."""
    (root / "logs/completions").mkdir(parents=True)
    looks = [{"step": n - 1, "steps": n, "loss": None, "accuracy": 0.02 * n, "format_rate": 0.1 * n} for n in range(6)]
    (root / "logs/sft.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks if sft))
    (root / "logs/train.jsonl").write_text("".join(json.dumps(step_record(i, steps)) + "\n" for i in range(steps)))
    if steps:
        completion_table(0).to_parquet(root / "logs/completions/00000000.parquet")
    counts = {"base": [0, 1, 2] * 12, "sft": [1, 1, 2] * 12, "grpo": [3, 1, 4] * 12}
    models = [name for name in counts if sft or name != "sft"]
    (root / "evaluations").mkdir()
    metrics: dict[str, Any] = dict.fromkeys(counts)
    for name in models:
        table = evaluation(counts[name], text=EVIL if name == "grpo" else f"text of {name}", levels=levels)
        table.to_parquet(root / f"evaluations/{name}.parquet")
        metrics[name] = summary(table)
    write_json(root / "metrics/evaluate.json", metrics)
    write_json(root / "metrics/sft.json", {"enabled": True, "seconds": 2.0} if sft else {"enabled": False})
    ends = {part: {"reward/mean": value} if steps else None for part, value in (("first", 0.5), ("last", 2.5))}
    write_json(root / "metrics/train.json", {"steps": steps, "seconds": {"rollout": 6.0, "update": 2.0}} | ends)
    kind = "device memory allocated" if device.startswith("cuda") else "process resident memory"
    write_json(root / "metrics/memory.json", {"kind": kind, "peak_bytes": {"rollout": 2**30, "update": 3 * 2**29}})
    write_json(root / "logs/memory.json", account(is_cuda=device.startswith("cuda")))
    write_cards(root, sft=sft, device=device)
    return root


def account(*, is_cuda: bool) -> dict[str, Any]:
    """logs/memory.json of a run whose optimizer was not counted."""
    phases = [
        {
            "phase": name, "planned_bytes": planned, "expected_bytes": planned, "measured_bytes": measured,
            "error_percent": error, "reserved_bytes": 3 * MIB if is_cuda else None,
            "planned_device_bytes": 5 * MIB, "device_bytes": 7 * MIB,
        }
        for name, planned, measured, error in (("update", 3 * MIB, 4 * MIB, -25.0), ("optimizer", 2 * MIB, None, None))
    ]  # fmt: skip
    rows = [("update", "weights", 2 * MIB), ("update", "logits", MIB), ("optimizer", "weights", 2 * MIB)]
    return {
        "card": "H100" if is_cuda else "this machine's memory", "card_bytes": 2**34, "is_cuda": is_cuda,
        "context_tokens": 68, "longest_context_tokens": 8192, "settings": ["4,096 tokens per micro-batch"],
        "phases": phases,
        "rows": [{"phase": phase, "row": row, "planned_bytes": amount} for phase, row, amount in rows],
        "standard": [{"row": "logits of a micro-batch", "standard_bytes": 9 * MIB, "planned_bytes": MIB}],
    }  # fmt: skip


def write_cards(root: Path, *, sft: bool, device: str) -> None:
    made = {"versions": {"python": "3.11", "triton": None}, "platform": "Linux x86_64"}
    split = {
        "count": 36, "levels": {"1": 36}, "prompt_tokens": {"min": 4, "mean": 5.5, "max": 7},
        "target_tokens": {"min": 4, "mean": 5.5, "max": 7}, "sha256": "abc123" * 10,
    }  # fmt: skip
    source = {"model": {"source": "scratch"}}
    prepare = {"prepare": {"task": "arithmetic"}} | source
    grpo = {"grpo": {"prompts_per_step": 2}, "rewards": {name: {"weight": weight} for name, weight in WEIGHTS.items()}}
    write_json(
        root / "data/prepared/card.json", made | {"device": "cpu", "params": prepare, "splits": {"train": split}}
    )
    write_json(root / "models/sft/card.json", {"enabled": sft} | ({"params": {"sft": {"max_steps": 7}}} if sft else {}))
    write_json(
        root / "models/grpo/card.json",
        made | {"device": device, "precision": "bfloat16, nf4", "params": grpo | source},
    )
    write_json(root / "evaluations/card.json", made | {"params": {"evaluate": {"temperature": 1.0}}})


def report_of(root: Path, *, examples: int = 3, seed: int = 0) -> Built:
    conclusion, files = build_report(load_inputs(root), examples=examples, resamples=200, seed=seed)
    return conclusion, files, files[Path("report.html")].decode()


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("normal"))


@pytest.fixture(scope="module")
def built(normal: Path) -> Built:
    """Conclusion, files and page of the normal run."""
    return report_of(normal)


class Tags(HTMLParser):
    """Every tag with its attributes, and the tags left open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags_of(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_files_of_a_normal_run(built: Built) -> None:
    conclusion, files, _ = built
    assert conclusion.kind == "rise"
    assert {path.as_posix() for path in files} == {
        "report.html", "curves.csv", "comparison.csv", "correlations.csv", "vram.csv", "training.csv",
        "figures/pre_finetune.png", "figures/learning.png",
        "figures/rewards.png", "figures/length.png", "figures/entropy.png", "figures/clip.png", "figures/signal.png",
        "figures/gradient.png", "figures/memory.png",
    }  # fmt: skip
    assert files[Path("curves.csv")].decode().count("\n") == 41
    assert "/" not in files[Path("curves.csv")].decode()
    lines = files[Path("vram.csv")].decode().splitlines()
    assert lines[1].startswith(f"update,weights,{2 * MIB},,") and len(lines) == 7
    assert lines[4] == f"update,all tensors,{3 * MIB},{3 * MIB},{4 * MIB},-25.0,,{5 * MIB},{7 * MIB},"
    assert lines[6] == f"standard implementation,logits of a micro-batch,{MIB},,,,,,,{9 * MIB}"


def test_sections_stand_in_order(built: Built) -> None:
    _, _, page = built
    order = [
        "GRPO raised mean@4", "Before and after", "Pre-finetune</h2>", "Learning curves", "During training",
        "Do the rewards reward being right?", "Answers before and after", "Time and memory",
        "Memory: planned, measured", "Settings and origin",
    ]  # fmt: skip
    places = [page.index(text) for text in order]
    assert places == sorted(places)


def test_page_is_whole_by_itself(built: Built) -> None:
    _, files, page = built
    tags = tags_of(page)
    assert tags.open == []
    images = [attributes["src"] for tag, attributes in tags.seen if tag == "img"]
    assert len(images) == sum(path.suffix == ".png" for path in files) == 9
    assert all(source and source.startswith("data:image/png;base64,iVBOR") for source in images)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags.seen}
    assert not any({"href", "srcset"} & set(attributes) for _, attributes in tags.seen)
    assert "http" not in page
    assert not re.search(r"url\(|@import", page)


def test_what_a_model_wrote_is_text(built: Built) -> None:
    _, _, page = built
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &lt;SOLUTION&gt;4&lt;/SOLUTION&gt;" in page


def test_numbers_of_the_tables_are_in_the_page(built: Built) -> None:
    _, _, page = built
    assert '<td class="">66.7%<small>[50.3, 79.8]</small></td>' in page  # greedy after: 24 of 36, Wilson
    assert "+33.3 points<small>" in page
    assert "12 became right, 0 became wrong, 12 still wrong, 12 still right" in page
    assert page.count("constant") == 2  # one reward is the same for all completions, over all and within groups
    assert "20.0%" in page  # 2 s of pre-finetune in 10 s
    assert "1.50 GiB" in page
    assert "This run was on the CPU, so no VRAM was used." in page
    assert "abc123" * 10 in page
    assert "sft.max_steps" in page


def test_examples_show_each_model_and_one_still_wrong(normal: Path) -> None:
    _, _, page = report_of(normal, examples=2)
    blocks = page.split('<div class="example">')[1:]
    assert ["wrong before, right after" in block for block in blocks] == [True, False]
    assert "wrong before and after" in blocks[1]
    assert blocks[0].index("text of base") < blocks[0].index("text of sft") < blocks[0].index("&lt;script")
    assert "Accuracy by level" not in page


def test_same_inputs_same_bytes_from_the_command_too(normal: Path, built: Built, tmp_path: Path) -> None:
    _, files, _ = built
    shutil.copytree(normal, tmp_path, dirs_exist_ok=True)
    params = (PROJECT / "params.yaml").read_text()
    for name, value in (("examples", 3), ("bootstrap_resamples", 200), ("seed", 0)):
        params, found = re.subn(rf"(?m)^(  {name}:) \S+", rf"\1 {value}", params)
        assert found == 1
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/stale.csv").write_text("of an earlier run")
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [sys.executable, "-m", "rlvr", "report"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("GRPO raised mean@4")
    written = {
        path.relative_to(tmp_path / "reports"): path.read_bytes() for path in (tmp_path / "reports").rglob("*.*")
    }
    assert written == files


def test_images_name_no_program_and_no_date(built: Built) -> None:
    _, files, _ = built
    png = files[Path("figures/learning.png")]
    assert b"atplotlib" not in png
    assert b"tEXt" not in png


def test_another_seed_moves_only_the_intervals_of_the_change(normal: Path, built: Built) -> None:
    _, files, page = built
    _, others, other = report_of(normal, seed=1)
    assert page != other
    assert {path for path in files if files[path] != others[path]} == {Path("report.html"), Path("training.csv")}


@pytest.mark.parametrize("name", ["$x^{$\\frac{", "$", "a_b$c$", "\\frac{"])
def test_the_name_of_a_reward_is_no_formula(name: str) -> None:
    log = pd.DataFrame({"step": [0, 1], f"reward/{name}/mean": [0.0, 1.0]})
    assert styled({"rewards": lambda: reward_functions(log, {name: 1.0})})["rewards"].startswith(b"\x89PNG")


@pytest.mark.parametrize("steps", [1, 2])
def test_very_short_runs(tmp_path: Path, steps: int) -> None:
    _, files, page = report_of(make_run(tmp_path, steps=steps))
    assert "Every step is shown." in page
    assert len(files[Path("curves.csv")].decode().splitlines()) == 1 + steps
    assert tags_of(page).open == []


def test_no_step_is_said(tmp_path: Path) -> None:
    conclusion, files, page = report_of(make_run(tmp_path, steps=0))
    assert "No GRPO step was taken" in conclusion.sentences[2]
    assert "The log holds no step: there is nothing to draw." in page
    assert "No completion was logged." in page
    assert [path.name for path in files if path.suffix == ".png"] == ["pre_finetune.png", "memory.png"]
    assert "Fewer than 8 steps" in page
    assert files[Path("curves.csv")].decode().startswith("step,loss,accuracy,reward_mean,")
    assert tags_of(page).open == []


def test_without_the_pre_finetune_the_base_is_before(tmp_path: Path) -> None:
    conclusion, files, page = report_of(make_run(tmp_path, sft=False))
    assert "(the base model)" in conclusion.sentences[0]
    assert "after pre-finetune" not in page
    assert "text of sft" not in page
    assert "pre-finetune</td>" not in page
    assert [line.split(",")[0] for line in files[Path("comparison.csv")].decode().splitlines()] == [
        "model",
        "base",
        "grpo",
    ]


def test_a_gpu_run_reports_vram(tmp_path: Path) -> None:
    _, _, page = report_of(make_run(tmp_path, device="cuda:0", levels=2))
    assert "Peak memory is VRAM (device memory allocated)" in page
    assert "CPU" not in page
    assert "on the card, measured" in page and '<td class="">3 MiB</td>' in page
    assert "fits H100 (16.00 GiB), within the model" in page and "is 8,192 tokens; this run" in page
    assert "Accuracy by level" in page
    assert "level 2" in page


def test_a_collapsed_run_draws_too(normal: Path) -> None:
    inputs = load_inputs(normal)
    broken = inputs.evaluations["grpo"].assign(num_correct=0, correct=False)
    collapsed = replace(
        inputs,
        log=inputs.log.assign(**{"grad_norm": np.nan}),
        evaluations=inputs.evaluations | {"grpo": broken},
        summaries=inputs.summaries | {"grpo": summary(broken)},
    )
    conclusion, files = build_report(collapsed, examples=2, resamples=100, seed=0)
    assert conclusion.kind == "collapse"
    assert b'class="verdict collapse"' in files[Path("report.html")]


def test_missing_and_mismatched_inputs_name_the_remedy(tmp_path: Path) -> None:
    root = make_run(tmp_path)
    table = pd.read_parquet(root / "evaluations/sft.parquet")
    table.iloc[::-1].to_parquet(root / "evaluations/sft.parquet")
    with pytest.raises(UserError, match=r"sft.parquet and evaluations/grpo.parquet.*run the stage evaluate again"):
        load_inputs(root)
    (root / "metrics/train.json").unlink()
    table.to_parquet(root / "evaluations/sft.parquet")
    with pytest.raises(UserError, match=r"train.json does not exist.*dvc repro"):
        load_inputs(root)
    write_json(root / "metrics/evaluate.json", {"base": {}, "sft": None, "grpo": None})
    with pytest.raises(UserError, match="no model 'grpo'"):
        load_inputs(root)


def test_the_report_needs_no_torch() -> None:
    code = (
        "import sys, rlvr.stages.report; assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
