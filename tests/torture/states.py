"""The tiny pipeline before each of its stages, and what an undisturbed run makes: by forks, and by the engines."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from rlvr.config import presets
from support.clone import ROOT, Clone, environment, new_clone
from support.smoke import smoke_params
from torture import forks
from torture.case import check_silent, tail

SHORT = """
prepare: {train_problems: 32, sft_problems: 32, dev_problems: 8, evaluation_problems: 8}
grpo: {steps: 6, prompts_per_step: 2, log_completions_every: 2}
rollout: {max_completion_tokens: 16}
sft: {max_steps: 6, check_every: 2}
"""
LONG_STEPS = 40  # of GRPO under an engine: long enough for a signal to come in the middle
LONG = f"grpo: {{steps: {LONG_STEPS}, checkpoint_every: 10}}"
OUTPUTS = {
    "prepare": ("data/prepared",),
    "sft": ("models/sft", "logs/sft.jsonl", "metrics/sft.json"),
    "grpo": ("models/grpo", "logs/train.jsonl", "logs/completions", "metrics/train.json"),
    "evaluate": ("evaluations", "metrics/evaluate.json"),
    "report": (),  # the page shows times
}
MEASURED = re.compile(r"seconds$|^time/|^tokens/second$|^memory/")  # of time and memory: another run has others


Hashes = dict[str, dict[str, str]]  # by stage, by file


@dataclass(frozen=True)
class Chain:
    """Folders as they are before each stage, the operations of the stage, the hashes of what it writes."""

    before: dict[str, Path]
    operations: dict[str, list[str]]
    hashes: Hashes

    def check_resumes(self, folder: Path, stage: str) -> None:
        """`stage` runs to its end from where it was, without a word too many, and writes the same."""
        saved, asked = last_saved(folder, stage), unasked(folder)
        ended = forks.run(folder, stage)
        check_silent(ended.text)
        assert ended.code == 0, f"the next run ended with {ended.code}:\n{tail(ended.text)}"
        shown = re.search(rf"^{stage} (\d+)/", ended.text, re.MULTILINE)
        assert not shown or saved == 0 or int(shown[1]) > saved, f"step {saved} was saved; the next run: {shown[0]}"
        if stage == "evaluate":
            models = set(re.findall(r"^evaluate (\w+) \d", ended.text, re.MULTILINE))
            assert len(models) == asked, f"the answers of {3 - asked} models were kept; asked again: {models}"
        check(folder, self.hashes, stage)


@dataclass(frozen=True)
class Clones:
    """Clones in which DVC has run all before each stage ("nothing": all), and the hashes of what they write."""

    before: dict[str, Clone]
    hashes: Hashes


def chain(folder: Path) -> Chain:
    """Run the pipeline in forks."""
    here = folder / "undisturbed"
    here.mkdir(parents=True)
    (here / "params.yaml").write_text(_params(SHORT), encoding="utf-8")
    shutil.copytree(ROOT / "user", here / "user", ignore=shutil.ignore_patterns("__pycache__"))
    before, operations = {}, {}
    for stage in OUTPUTS:
        before[stage] = forks.copy(here, folder / f"before-{stage}")
        ended = forks.run(here, stage)
        assert ended.code == 0, ended.text
        operations[stage] = ended.operations
    return Chain(before, operations, {stage: hashes(here, stage) for stage in OUTPUTS})


def clones(folder: Path) -> Clones:
    """Run the pipeline in a clone with DVC."""
    clone = new_clone(folder / "clone", environment(folder))
    (clone.folder / "params.yaml").write_text(_params(SHORT, LONG), encoding="utf-8")
    clone.commit()
    before = {"nothing": clone}
    for stage in OUTPUTS:
        before[stage] = clone.copy(folder / f"clone-before-{stage}")
        clone.repro("dvc", stage)
    return Clones(before, {stage: hashes(clone.folder, stage) for stage in OUTPUTS})


def _params(*overlays: str) -> str:
    return reduce(presets.with_overlay, overlays, smoke_params())


def check(folder: Path, expected: Hashes, *stages: str) -> None:
    """The outputs of `stages`, of all without any, are those of an undisturbed run."""
    wrong = [name for stage in stages or expected for name in differences(folder, expected, stage)]
    assert not wrong, f"another result: {', '.join(wrong)}"


def differences(folder: Path, expected: Hashes, stage: str) -> list[str]:
    found, wanted = hashes(folder, stage), expected[stage]
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def hashes(folder: Path, stage: str) -> dict[str, str]:
    """Of every file that `stage` wrote, without what it measured of time and memory."""
    places = [folder / place for place in OUTPUTS[stage]]
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    return {str(file.relative_to(folder)): _hash(file) for file in files if file.is_file()}


def last_saved(folder: Path, stage: str) -> int:
    """The steps of the newest checkpoint."""
    saved = [int(path.name.removeprefix("step-")) for path in folder.glob(f".checkpoints/{stage}/*/step-*")]
    return max(saved, default=0)


def unasked(folder: Path) -> int:
    """How many of the three models evaluate has no answers of; it judges when it has all."""
    kept = folder / ".checkpoints/evaluate"
    return 0 if list(kept.glob("*.parquet")) else 3 - len(list(kept.glob("*.answers")))


def _hash(file: Path) -> str:
    data = file.read_bytes()
    if file.parent.name in ("logs", "metrics"):
        texts = data.splitlines() if file.suffix == ".jsonl" else [data]
        with suppress(ValueError):  # it is damaged, and is another file
            data = repr([_without_measured(json.loads(text)) for text in texts]).encode()
    return hashlib.sha256(data).hexdigest()


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_measured(inner) for key, inner in value.items() if not MEASURED.search(key)}
    return value
