"""Ctrl-C, kill -9, edits, second runs in the middle of GRPO: the next run of either engine gives the same weights."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.clone import ENGINES, OTHER, Clone, Done, Running, nothing_left, under_each, wait

pytestmark = pytest.mark.slow
Finished = Callable[[str], Clone]
STEPS = 150  # long enough to be hit in the middle; the smoke run has 8
TRAINER = r"-m rlvr grpo"
TRAINER_ALONE = ("env", "PYTHONPATH=src", "python", "-m", "rlvr", "grpo")
DVC = r"bin/dvc .*\brepro\b"
SNAKEMAKE = r"bin/snakemake "


@pytest.fixture(scope="module")
def long(first_runs: dict[str, tuple[Clone, Done]], folder: Path) -> Clone:
    """A finished clone whose next run is a longer GRPO. Copy it."""
    clone = first_runs["dvc"][0].copy(folder / "long")
    clone.set("grpo.steps", STEPS)
    clone.set("grpo.prompts_per_step", 2)
    clone.commit()
    return clone


@pytest.fixture(scope="module")
def undisturbed(long: Clone, folder: Path) -> dict[str, bytes]:
    clone = long.copy(folder / "undisturbed")
    assert clone.repro("dvc", "grpo").ran == ["grpo"]
    return clone.weights()


def test_a_lock_of_a_process_that_nobody_waited_for_is_no_obstacle(finished: Finished) -> None:
    """In a container whose PID 1 does not wait for orphans, a killed dvc stays in the process table."""
    clone = finished("clone")
    with subprocess.Popen(["true"]) as zombie:  # not waited for inside of the block
        holder = {"pid": zombie.pid, "cmd": "dvc repro"}
        locks = {"write": {str(clone.folder / "data/prepared"): holder}, "read": {}}
        wait(lambda: "Z" in Path(f"/proc/{zombie.pid}/stat").read_text(), "its end")
        (clone.folder / ".dvc/tmp/rwlock").write_text(json.dumps(locks))
        assert "busy" in clone.run("dvc", "status", fails=True).text
        assert "Nothing to be done" in clone.repro("snakemake").text


@pytest.mark.parametrize("content", ["", '{"write": {', "null", "\0\0\0\0"])
def test_a_damaged_lock_that_nobody_holds_is_no_obstacle(content: str, finished: Finished) -> None:
    clone = finished("clone")
    (clone.folder / ".dvc/tmp/rwlock").write_text(content)
    assert "Nothing to be done" in clone.repro("snakemake").text


def test_a_lock_of_a_number_that_another_program_has_now_is_no_obstacle(finished: Finished) -> None:
    """After a restart of the machine."""
    clone = finished("clone")
    with subprocess.Popen(["sleep", "600"]) as other:
        holder = {"pid": other.pid, "cmd": "dvc repro"}
        locks = {"write": {str(clone.folder / "data/prepared"): holder}, "read": {}}
        (clone.folder / ".dvc/tmp/rwlock").write_text(json.dumps(locks))
        assert "busy" in clone.run("dvc", "status", fails=True).text
        assert "Nothing to be done" in clone.repro("snakemake").text
        other.kill()


def begin(clone: Clone, engine: str) -> Running:
    return clone.start(*ENGINES[engine], "grpo")


def resumed_at(text: str) -> list[int]:
    """The first step that each trainer in this output showed."""
    return [int(step) for step in re.findall(rf"> exec .*\n(?:.*\n)*?grpo (\d+)/{STEPS} ", text)]


@dataclass(frozen=True)
class Interrupted:
    """A clone whose GRPO was stopped by Ctrl-C, what was said, and what others were told while it ran."""

    clone: Clone
    done: Done
    refused: dict[str, Done]
    trainer: int


@pytest.fixture(scope="module")
def interrupted(long: Clone, folder: Path) -> dict[str, Interrupted]:
    def interrupt(engine: str) -> Interrupted:
        clone = long.copy(folder / f"interrupted-{engine}")
        running = begin(clone, engine)
        running.reaches_step(5)
        trainer = clone.process(TRAINER)
        os.kill(trainer, signal.SIGSTOP)  # it waits while others try
        others = {name: clone.start(*command) for name, command in (ENGINES | {"trainer": TRAINER_ALONE}).items()}
        refused = {name: other.ends() for name, other in others.items()}
        os.kill(trainer, signal.SIGCONT)
        running.signal_group(signal.SIGINT)
        done = running.ends()
        nothing_left(clone)
        return Interrupted(clone, done, refused, trainer)

    return under_each(interrupt)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_run_is_refused_and_told_who_is_in_the_way(interrupted: dict[str, Interrupted], engine: str) -> None:
    told = interrupted[engine]
    for name, refused in told.refused.items():
        assert refused.code != 0, name
        assert refused.ran == []
        assert "Traceback" not in refused.text
        assert re.search(r"PID \d+|process \d+", refused.text), refused.text
    assert f"process {told.trainer} is running grpo" in told.refused["trainer"].text
    assert "wait for it or stop it" in told.refused["snakemake"].text


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_stops_after_a_checkpoint_and_says_how_to_go_on(
    interrupted: dict[str, Interrupted], engine: str
) -> None:
    done = interrupted[engine].done
    assert done.code != 0
    assert "Traceback" not in done.text
    found = re.search(rf"stopped after step (\d+) of {STEPS}\. Run the same command again to resume", done.text)
    assert found, done.text
    assert 5 < int(found.group(1)) < STEPS


def test_after_ctrl_c_the_other_engine_goes_on_to_the_same_weights(
    interrupted: dict[str, Interrupted], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    def go_on(engine: str) -> None:
        clone, done = interrupted[engine].clone.copy(tmp_path / engine), interrupted[engine].done
        stopped = re.search(r"stopped after step (\d+)", done.text)
        assert stopped
        resumed = clone.repro(OTHER[engine], "grpo")
        assert resumed_at(resumed.text) == [int(stopped.group(1)) + 1]
        assert clone.weights() == undisturbed
        log = [record["step"] for record in clone.json_lines("logs/train.jsonl")]
        assert log == list(range(STEPS))

    under_each(go_on)


@pytest.mark.parametrize(
    ("engine", "victim", "sent"),
    [
        (engine, victim, sent)
        for engine, victim in (("dvc", "group"), ("dvc", DVC), ("snakemake", "group"), ("snakemake", SNAKEMAKE))
        for sent in (signal.SIGTERM, signal.SIGHUP)
    ],
)
def test_a_signal_of_the_system_gives_a_checkpoint_too(
    long: Clone, tmp_path: Path, engine: str, victim: str, sent: signal.Signals
) -> None:
    """docker stop, systemd, scancel, a closed terminal: to the engine alone, or to all."""
    clone = long.copy(tmp_path / "clone")
    running = begin(clone, engine)
    running.reaches_step(5)
    if victim == "group":
        running.signal_group(sent)
    else:
        os.kill(clone.process(victim), sent)
    done = running.ends()
    nothing_left(clone)
    assert done.code != 0
    assert "Traceback" not in done.text
    run = clone.run_under_way()
    assert run is not None
    saved = max(int(path.name.removeprefix("step-")) for path in run.glob("step-*"))
    assert 5 < saved == clone.last_step() + 1 < STEPS


def test_other_parameters_start_at_the_first_step(interrupted: dict[str, Interrupted], tmp_path: Path) -> None:
    clone = interrupted["dvc"].clone.copy(tmp_path / "clone")
    assert clone.last_step() > 4
    clone.set("grpo.steps", 4)
    clone.set("grpo.learning_rate", 1.0e-3)
    assert "grpo 1/4" in clone.repro("dvc", "grpo").text
    assert [record["step"] for record in clone.json_lines("logs/train.jsonl")] == [0, 1, 2, 3]
    assert [path.name for path in clone.folder.glob(".checkpoints/grpo/*/done")] == ["done"]


def test_parameters_edited_during_the_run_fail_the_stage(finished: Finished) -> None:
    def edit(engine: str) -> None:
        clone = finished(engine)
        clone.set("grpo.learning_rate", 1.0e-3)
        running = begin(clone, engine)
        running.reaches_step(0)
        clone.set("grpo.learning_rate", 2.0e-3)
        done = running.ends()
        assert done.code != 0
        assert "params.yaml was edited: this run continues with what it began with" in done.text
        assert "params.yaml was edited while grpo ran" in done.text
        assert "grpo" in clone.run("dvc", "status", "--json").text
        clone.set("grpo.learning_rate", 1.0e-3)
        again = clone.repro(OTHER[engine], "grpo")
        assert again.ran == ["grpo"] and "no step is trained" in again.text and resumed_at(again.text) == []
        assert [record["step"] for record in clone.json_lines("logs/train.jsonl")] == list(range(8))

    under_each(edit)


def runs_our_code(clone: Clone) -> bool:
    stages = [pid for pid, command in clone.processes().items() if "python -m rlvr prepare" in command]
    return any("pydantic_core" in Path(f"/proc/{pid}/maps").read_text() for pid in stages)


def test_ctrl_c_in_a_stage_without_checkpoints_is_heard(fresh: Clone, tmp_path: Path) -> None:
    def interrupt(engine: str) -> None:
        clone = fresh.copy(tmp_path / engine)
        running = clone.start(*ENGINES[engine])
        wait(lambda: runs_our_code(clone), "our code", alive=running)  # Python's own start may print a traceback
        running.signal_group(signal.SIGINT)
        done = running.ends()
        assert done.code != 0
        assert "Traceback" not in done.text
        assert not (clone.folder / "dvc.lock").exists()
        nothing_left(clone)

    under_each(interrupt)


def kill_and_wait(running: Running, victim: str) -> Done:
    """SIGKILL to the group or to the one process of `victim`. Nothing of the run may stay alive."""
    alive = running.clone.processes()
    if victim == "group":
        running.signal_group(signal.SIGKILL)
    else:
        os.kill(running.clone.process(victim), signal.SIGKILL)
    done = running.ends()
    nothing_left(running.clone, alive)
    return done


def survives(clone: Clone, engine: str, victims: list[str], undisturbed: dict[str, bytes]) -> None:
    """Kill GRPO once for each victim, at random steps; then the other engine must finish it, with the same weights."""
    rng = random.Random()
    step, resumed = 0, []
    for victim in victims:
        step += rng.randrange(2, 2 * STEPS // 3 // len(victims))
        running = begin(clone, engine)
        running.reaches_step(step)
        killed = kill_and_wait(running, victim)
        assert killed.code != 0, f"{victim} at step {step}:\n{killed.text}"
        step = clone.last_step()
        resumed += resumed_at(killed.text)
    finish = clone.repro(OTHER[engine], "grpo")
    assert "unlock" not in finish.text
    resumed += resumed_at(finish.text)
    assert resumed == sorted(resumed)
    assert resumed[-1] > 1, f"the last run began anew: {resumed}"
    assert clone.weights() == undisturbed
    assert [record["step"] for record in clone.json_lines("logs/train.jsonl")] == list(range(STEPS))
    assert clone.run("dvc", "status", "grpo").text.count("changed") == 0


def test_a_trainer_that_is_just_starting_ends_with_its_engine(long: Clone, tmp_path: Path) -> None:
    clone = long.copy(tmp_path / "clone")
    running = begin(clone, "dvc")
    wait(lambda: any(re.search(TRAINER, line) for line in clone.processes().values()), "the trainer", alive=running)
    time.sleep(1.0)  # it is importing torch
    assert clone.last_step() == -1
    kill_and_wait(running, DVC)


ONE_VICTIM = {"dvc": DVC, "snakemake": SNAKEMAKE}
ALL_VICTIMS = {
    "dvc": ["group", DVC, TRAINER, DVC, "group"],
    "snakemake": ["group", SNAKEMAKE, DVC, TRAINER, SNAKEMAKE],
}


def test_kill_the_engine_once(long: Clone, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    under_each(
        lambda engine: survives(long.copy(tmp_path / engine), engine, [ONE_VICTIM[engine]], undisturbed),
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_kill_five_times(long: Clone, undisturbed: dict[str, bytes], tmp_path: Path, engine: str) -> None:
    survives(long.copy(tmp_path / engine), engine, ALL_VICTIMS[engine], undisturbed)
