"""The whole of an engine gets a signal at some moment: nothing stays alive, and the next run writes the same."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from support.clone import ENGINES, Clone, Running, nothing_left, wait
from torture.case import Case, check_silent, spread
from torture.states import LONG_STEPS, Clones, check

LEAST = 30
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _runs(stage: str, running: Running) -> bool:
    """Whether rlvr's own code runs: Python's start may print a traceback at Ctrl-C."""
    with suppress(OSError):  # it ended meanwhile
        found = [pid for pid, command in running.clone.processes().items() if f"python -m rlvr {stage}" in command]
        return any("pydantic_core" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8") for pid in found)
    return False


def _has(pattern: str, running: Running) -> bool:
    return any(running.clone.folder.glob(pattern))


def _at_step(step: int, running: Running) -> bool:
    return running.clone.last_step() >= step


MOMENTS: dict[str, tuple[str, Callable[[Running], bool]]] = {
    "in prepare": ("prepare", partial(_runs, "prepare")),
    "at the start of sft": ("sft", partial(_runs, "sft")),
    "in sft": ("sft", partial(_has, ".checkpoints/sft/*/train.jsonl")),
    "at the start of grpo": ("grpo", partial(_runs, "grpo")),
    "at the first step of grpo": ("grpo", partial(_at_step, 0)),
    "in the middle of grpo": ("grpo", partial(_at_step, LONG_STEPS // 2)),
    "at the last step of grpo": ("grpo", partial(_at_step, LONG_STEPS - 1)),
    "at the start of evaluate": ("evaluate", partial(_runs, "evaluate")),
    "in evaluate": ("evaluate", partial(_has, ".checkpoints/evaluate/*.answers")),
    "in report": ("report", partial(_runs, "report")),
}


def cases(clones: Clones, count: int) -> Iterator[Case]:
    pairs = [(sent, engine) for engine in ENGINES for sent in SIGNALS]
    every = [
        (moment, *pairs[(3 * m + k) % len(pairs)])  # so that a few of them are of every kind
        for m, moment in enumerate(MOMENTS)
        for k in range(len(pairs))
    ]
    for moment, sent, engine in spread(every, count):
        yield Case(f"{sent.name} to {engine} {moment}", partial(_signal, clones, moment, sent, engine))


def _signal(clones: Clones, moment: str, sent: signal.Signals, engine: str, folder: Path) -> None:
    stage, reached = MOMENTS[moment]
    clone = clones.before[stage].copy(folder / "clone")
    running = clone.start(*ENGINES[engine])
    wait(lambda: reached(running), moment, alive=running)
    running.signal_group(sent)
    done = running.ends()
    nothing_left(clone)
    check_silent(done.text)
    again = clone.repro(engine)
    check_silent(again.text)
    _check_resumed(clone, done.text, again.text)
    check(clone.folder, clones.hashes)


def _check_resumed(clone: Clone, before: str, after: str) -> None:
    if stopped := re.search(rf"stopped after step (\d+) of {LONG_STEPS}", before):
        shown = re.search(rf"^grpo (\d+)/{LONG_STEPS}", after, re.MULTILINE)
        assert shown and int(shown[1]) == int(stopped[1]) + 1, f"{stopped[0]}, and then {shown and shown[0]}"
    assert [record["step"] for record in clone.json_lines("logs/train.jsonl")] == list(range(LONG_STEPS))
