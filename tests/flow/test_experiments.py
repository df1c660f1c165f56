"""`dvc exp`: values arrive as numbers, results come back without running anything."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest

from support.clone import Clone, wait

Finished = Callable[[str], Clone]


def shown(clone: Clone) -> list[dict[str, str]]:
    """The rows of `dvc exp show`."""
    return list(csv.DictReader(io.StringIO(clone.run("dvc", "exp", "show", "--csv").text)))


def column(row: dict[str, str], name: str) -> str:
    found = [value for key, value in row.items() if key == name or key.endswith(f":{name}")]
    assert len(found) == 1, f"{name} is not one of {sorted(row)}"
    return found[0]


def test_an_experiment_is_run_shown_and_applied(finished: Finished) -> None:
    clone = finished("clone")
    committed = clone.weights()
    settings = ("-S", "grpo.learning_rate=1e-5", "-S", "sft.enabled=false")
    assert clone.run("dvc", "exp", "run", "--name", "gentle", *settings).ran == ["sft", "grpo", "evaluate", "report"]
    rate = clone.json("models/grpo/card.json")["params"]["grpo"]["learning_rate"]
    assert isinstance(rate, float)
    assert rate == 1e-5
    assert clone.json("models/sft/card.json") == {"enabled": False, "files": {}}
    experiment = clone.weights()
    assert experiment != committed

    rows = {row["Experiment"] or row["rev"]: row for row in shown(clone)}
    assert float(column(rows["gentle"], "grpo.learning_rate")) == 1e-5
    assert float(column(rows["main"], "grpo.learning_rate")) == 3e-4
    assert float(column(rows["gentle"], "grpo.mean_at_k")) >= 0.0

    clone.git("checkout", "--quiet", "--force", "main")
    clone.run("dvc", "checkout")
    assert clone.weights() == committed
    assert clone.repro("dvc").ran == clone.repro("snakemake").ran == []
    clone.run("dvc", "exp", "apply", "gentle")
    assert clone.weights() == experiment
    assert clone.repro("snakemake").ran == clone.repro("dvc").ran == []
    clone.set("sft.learning_rate", 1.0e-3)  # of the pre-finetune that is off
    assert clone.repro("dvc").ran == ["sft"]


def test_queued_experiments_leave_the_workspace_alone(finished: Finished) -> None:
    clone = finished("clone")
    page = clone.folder / "reports/report.html"
    committed = page.read_bytes()
    clone.run("dvc", "exp", "run", "--queue", "--name", "short", "-S", "report.examples=1")
    clone.run("dvc", "exp", "run", "--run-all")
    assert page.read_bytes() == committed
    assert clone.git("status", "--porcelain") == ""
    assert clone.repro("snakemake").ran == clone.repro("dvc").ran == []
    clone.run("dvc", "exp", "apply", "short")
    assert page.read_bytes() != committed
    assert clone.repro("snakemake").ran == clone.repro("dvc").ran == []


@pytest.mark.slow
def test_the_queue_in_the_background(finished: Finished) -> None:
    clone = finished("clone")
    for rate in ("1e-5", "2e-5"):
        clone.run("dvc", "exp", "run", "--queue", "--name", f"rate-{rate}", "-S", f"grpo.learning_rate={rate}")
    clone.run("dvc", "queue", "start")
    wait(lambda: clone.run("dvc", "queue", "status").text.count("Success") == 2, "end of both experiments")
    clone.run("dvc", "queue", "stop", "--kill")
    rates = {row["Experiment"]: column(row, "grpo.learning_rate") for row in shown(clone) if row["Experiment"]}
    assert {name: float(rate) for name, rate in rates.items()} == {"rate-1e-5": 1e-5, "rate-2e-5": 2e-5}
    clone.run("dvc", "exp", "apply", "rate-2e-5")
    assert clone.json("models/grpo/card.json")["params"]["grpo"]["learning_rate"] == 2e-5
    assert clone.repro("snakemake").ran == clone.repro("dvc").ran == []
