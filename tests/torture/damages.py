"""A file of a run or of its inputs is damaged: the stage writes the same result, or one error names the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from torture import forks
from torture.case import Case, check_one_error, check_silent, spread, tail
from torture.states import Chain, differences

LEAST = 30
BOOKS = ("logs/", "metrics/")  # what may differ where the run's own log was damaged, and that was said


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "with one bit flipped": _flip,
    "cut to half": _cut,
    "empty": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "replaced by other JSON": lambda file: file.write_text('{"other": [1, 2]}\n', encoding="utf-8"),
}
FILES = (  # the stage, the operation at which it was killed before (of those alike the first, or the last), its files
    ("sft", None, "data/prepared/sft.parquet data/prepared/dev.parquet data/prepared/card.json data/prepared/base/*"),
    ("sft", ("os.rename .checkpoints/sft/*/writing", -1), ".checkpoints/sft/*/step-*/* .checkpoints/sft/*/recipe.json"),
    ("grpo", None, "data/prepared/train.parquet models/sft/*"),
    ("grpo", ("open .checkpoints/grpo/*/train.jsonl", -1), ".checkpoints/grpo/*/*.json* .checkpoints/grpo/*/*/*"),
    ("evaluate", None, "data/prepared/evaluation.parquet"),
    ("evaluate", ("os.remove .checkpoints/evaluate/*.answers", 0), ".checkpoints/evaluate/*.answers"),
    ("evaluate", ("open metrics/evaluate.json", -1), ".checkpoints/evaluate/*.parquet"),
)


def cases(chain: Chain, count: int) -> Iterator[Case]:
    every = []
    for stage, killed, patterns in FILES:
        state = chain.before[stage] if killed is None else _killed(chain, stage, *killed)
        found = sorted({path for pattern in patterns.split() for path in state.glob(pattern) if path.is_file()})
        every += [(stage, state, path.relative_to(state), damage) for path in found for damage in DAMAGES]
    for stage, state, file, damage in spread(every, count):
        when = "" if state == chain.before[stage] else ", killed before,"
        yield Case(f"{stage}{when} with {file} {damage}", partial(_damage, chain, stage, state, file, damage))


def _damage(chain: Chain, stage: str, state: Path, file: Path, damage: str, folder: Path) -> None:
    here = forks.copy(state, folder / "run")
    DAMAGES[damage](here / file)
    ended = forks.run(here, stage)
    check_silent(ended.text)
    if ended.code:
        error = check_one_error(ended.text)
        assert ended.code == 1 and file.name in error, f"code {ended.code}, and no word of {file.name}: {error}"
    elif wrong := differences(here, chain.hashes, stage):
        is_told = re.search(rf"^warning: .*{re.escape(file.name)}", ended.text, re.MULTILINE)
        are_books = file.name == "train.jsonl" or file.parent.name == "completions"  # no weight depends on them
        is_whole = all(name.startswith(BOOKS) for name in wrong)
        assert is_told and are_books and is_whole, f"code 0 and another result: {', '.join(wrong)}\n{tail(ended.text)}"


def _killed(chain: Chain, stage: str, pattern: str, index: int) -> Path:
    """A folder in which `stage` was killed before an operation."""
    at = [k for k, operation in enumerate(chain.operations[stage], 1) if fnmatch(operation, pattern)][index]
    here = chain.before[stage].with_name(f"killed-{stage}-{at}")
    ended = forks.run(forks.copy(chain.before[stage], here), stage, acts={at: forks.die})
    assert ended.code == -9, ended.text
    return here
