"""Two commands at once in one folder: one is refused and told who is in the way, or both are right."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from support.clone import ENGINES, Clone, Done, nothing_left
from torture.case import Case, check_silent, names_a_process, spread, tail
from torture.states import Clones, check

LEAST = 13
DVC, SNAKEMAKE = ENGINES["dvc"], ENGINES["snakemake"]


def _stage(name: str, *arguments: str) -> tuple[str, ...]:
    return ("env", "PYTHONPATH=src", "python", "-m", "rlvr", name, *arguments)


PAIRS = (  # the stage that is about to run, and two commands that start together
    ("grpo", DVC, DVC),
    ("grpo", DVC, SNAKEMAKE),
    ("prepare", SNAKEMAKE, SNAKEMAKE),
    ("grpo", DVC, _stage("grpo")),
    ("prepare", _stage("prepare"), _stage("prepare")),
    ("sft", _stage("sft"), _stage("sft")),
    ("grpo", _stage("grpo"), _stage("grpo")),
    ("evaluate", _stage("evaluate"), _stage("evaluate")),
)
DURING_GRPO = (  # commands in the middle of it
    _stage("runs", "delete", "RUN"),
    _stage("report"),
    _stage("generate", "12+7?", "--model", "models/sft"),
    _stage("sft"),
    _stage("evaluate"),
)


def cases(clones: Clones, count: int) -> Iterator[Case]:
    pairs = [
        Case(f"{' '.join(a)} and {' '.join(b)} before {stage}", partial(_pair, clones, stage, a, b))
        for stage, a, b in PAIRS
    ]
    during = [Case(f"{' '.join(c)} while grpo runs", partial(_during, clones, c)) for c in DURING_GRPO]
    yield from spread(pairs + during, count)


def _pair(clones: Clones, stage: str, a: tuple[str, ...], b: tuple[str, ...], folder: Path) -> None:
    clone = clones.before[stage].copy(folder / "clone")
    running = [clone.start(*command) for command in (a, b)]
    _end(clones, clone, [each.ends() for each in running])


def _during(clones: Clones, command: tuple[str, ...], folder: Path) -> None:
    clone = clones.before["nothing"].copy(folder / "clone")
    grpo = clone.start(*_stage("grpo"))  # its results are in DVC, so it begins again
    grpo.reaches_step(2)
    run = clone.run_under_way()
    assert run is not None
    other = clone.start(*(run.name if word == "RUN" else word for word in command))
    _end(clones, clone, [other.ends(), grpo.ends()])


def _end(clones: Clones, clone: Clone, ended: list[Done]) -> None:
    """One was refused, or none. What is missing is made then, and all is as ever."""
    nothing_left(clone)
    for done in ended:
        check_silent(done.text)
        is_refused = done.code > 0 and names_a_process(done.text)
        assert done.code == 0 or is_refused, f"ended with {done.code} and names no process:\n{tail(done.text)}"
    assert any(done.code == 0 for done in ended), "both were refused"
    check_silent(clone.repro("dvc").text)
    check(clone.folder, clones.hashes)
