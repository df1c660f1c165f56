"""A setting, the code or an input is edited while a stage runs: it is said, and no result of two settings comes out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from support.clone import ROOT
from torture import forks
from torture.case import Case, check_one_error, check_silent, spread, tail
from torture.states import Chain, check

LEAST = 16
SAVES = re.compile(r"write \.checkpoints/|^open \.checkpoints/evaluate/.*\.writing")  # a checkpoint, or a kept table


@dataclass(frozen=True)
class Edit:
    """Of `file`, in a run of `stage`. `is_taken_back`: while it runs, not after it. `fails`: whether it must."""

    what: str
    file: str
    edited: Callable[[bytes], bytes | None]  # None: the file is deleted
    stage: str = "grpo"
    fails: bool = True
    is_taken_back: bool = False


def _setting(name: str, value: str) -> Callable[[bytes], bytes]:
    """The first line of params.yaml with this name after its section."""
    section, _, key = name.partition(".")
    pattern = rf"(?ms)^({section}:.*?^ +{key}:) [^\n#]*"
    return lambda data: re.sub(pattern, rf"\g<1> {value} ", data.decode(), count=1).encode()


def _comment(data: bytes) -> bytes:
    return data + b"\n# edited\n"


EDITS = (
    Edit("a setting of the recipe", "params.yaml", _setting("grpo.learning_rate", "1.0e-3")),
    Edit("a setting of the recipe", "params.yaml", _setting("grpo.learning_rate", "1.0e-3"), is_taken_back=True),
    Edit("a setting outside the recipe", "params.yaml", _setting("grpo.checkpoint_every", "3")),
    Edit("a setting of another stage", "params.yaml", _setting("report.examples", "3"), fails=False),
    Edit("invalid YAML", "params.yaml", lambda _: b"grpo: [1, {"),
    Edit("invalid YAML", "params.yaml", lambda _: b"grpo: [1, {", is_taken_back=True),
    Edit("the settings are deleted", "params.yaml", lambda _: None),
    Edit("a file of the user", "user/my_rewards.py", _comment),
    Edit("the code of the stage", "src/rlvr/loss/policy.py", _comment),
    Edit("code without effect on results", "src/rlvr/runtime/progress.py", _comment, fails=False),
    Edit("prepared data replaced", "data/prepared/train.parquet", lambda data: data + b" "),
    Edit("the pre-finetuned model replaced", "models/sft/model.safetensors", lambda data: data[:-1] + b"\1"),
    Edit("the pre-finetuned model written again", "models/sft/model.safetensors", lambda data: data, fails=False),
    Edit("a setting of the recipe", "params.yaml", _setting("sft.learning_rate", "1.0e-3"), stage="sft"),
    Edit("a setting of the recipe", "params.yaml", _setting("evaluate.temperature", "0.5"), stage="evaluate"),
    Edit("prepared data replaced", "data/prepared/evaluation.parquet", lambda data: data + b" ", stage="evaluate"),
)


def cases(chain: Chain, count: int) -> Iterator[Case]:
    for edit in spread(EDITS, count):
        end = ", taken back" if edit.is_taken_back else ""
        yield Case(f"{edit.what} while {edit.stage} runs ({edit.file}){end}", partial(_edit, chain, edit))


def _edit(chain: Chain, edit: Edit, folder: Path) -> None:
    here = forks.copy(chain.before[edit.stage], folder / "run")
    shutil.copytree(ROOT / "src", here / "src", ignore=shutil.ignore_patterns("__pycache__"))
    file = here / edit.file
    original = file.read_bytes()
    moments = [k for k, name in enumerate(chain.operations[edit.stage], 1) if SAVES.search(name)]
    edited = edit.edited(original)
    assert edited != original or not edit.fails, "the edit changes nothing"
    acts: dict[int, forks.Act] = {moments[0]: lambda *_: _put(file, edited)}
    if edit.is_taken_back:
        acts[moments[-1]] = lambda *_: _put(file, original)
    ended = forks.run(here, edit.stage, acts=acts, source=here / "src")
    check_silent(ended.text)
    assert ended.code == int(edit.fails and not edit.is_taken_back), f"ended with {ended.code}:\n{tail(ended.text)}"
    if ended.code:
        assert "edited" in check_one_error(ended.text), ended.text
    else:
        check(here, chain.hashes, edit.stage)
    if edit.stage == "grpo" and (edit.fails or edit.is_taken_back):
        assert re.search(r"^warning: .*edited.* continues with what it began", ended.text, re.M | re.S), "no warning"
    _put(file, original)
    again = forks.run(here, edit.stage, source=here / "src")
    check_silent(again.text)
    trained = re.findall(rf"^(?:{edit.stage}|evaluate \w+) \d+/.*", again.text, re.MULTILINE)
    assert not trained, f"with the old values it was done again: {trained[0]}"
    check(here, chain.hashes, edit.stage)


def _put(file: Path, data: bytes | None) -> None:
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
