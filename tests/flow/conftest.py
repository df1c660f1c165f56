from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support.clone import Clone, Done, environment, new_clone, under_each


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """Where the tests themselves run in the background of a shell, all that they start would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flow")


@pytest.fixture(scope="session")
def fresh(folder: Path) -> Clone:
    """A clone in which nothing has run. Copy it."""
    return new_clone(folder / "fresh", environment(folder))


@pytest.fixture(scope="session")
def first_runs(fresh: Clone, folder: Path) -> dict[str, tuple[Clone, Done]]:
    """By engine: a fresh clone in which it ran the pipeline, results committed, and what that said.

    DVC's commands get two threads from the environment, Snakemake gives one.
    """

    def first_run(engine: str) -> tuple[Clone, Done]:
        clone = fresh.copy(folder / f"finished-{engine}")
        threads = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
        done = Clone(clone.folder, clone.env | threads).repro(engine)
        clone.commit()
        return clone, done

    return under_each(first_run)


@pytest.fixture
def finished(first_runs: dict[str, tuple[Clone, Done]], tmp_path: Path) -> Callable[[str], Clone]:
    """finished(name): a copy of a clone in which the whole pipeline has run."""
    clone, _ = first_runs["dvc"]
    return lambda name: clone.copy(tmp_path / name)
