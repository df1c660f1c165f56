"""GSM8K: grade-school word problems with worked solutions (Cobbe et al. 2021, arXiv:2110.14168).

The answer of a row holds the steps, with calculator annotations such as <<48/2=24>>, then a last line `#### GOLD`.
Level is the number of annotations, at least 1.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.tasks.pools import Pools
from rlvr.tasks.source import describe, pinned, read_hub
from rlvr.tasks.table import TableRow, read_local
from rlvr.tasks.text import number_with_unit
from rlvr.types import Problem, UserError

if TYPE_CHECKING:
    from rlvr.config import Gsm8k, Prepare

SPLITS = ("train", "test")
ANNOTATION = re.compile(r"<<[^<>]*>>")


def load(prepare: Prepare, seed: int) -> Pools:
    """Training problems from the train file, evaluation problems from the test file, both in seeded order.

    Raises UserError for files that are missing or ambiguous and for rows without a gold.
    """
    settings, rng = prepare.gsm8k, random.Random(f"gsm8k {seed}")
    tables, origin = _tables(settings)
    pools, too_long = {}, {}
    for split, rows in tables.items():
        problems = [problem(row, f"{split}-{i}", f"{settings.source} {split} row {i}") for i, row in enumerate(rows, 1)]
        pools[split] = [p for p in problems if settings.max_steps is None or p.level <= settings.max_steps]
        too_long[split] = len(problems) - len(pools[split])
        rng.shuffle(pools[split])
    return Pools(pools["train"], pools["test"], origin | {"above_max_steps": too_long})


def problem(row: TableRow, identity: str, place: str) -> Problem:
    """A row as a problem. Raises UserError with `place` if it has no question or no number after `####`."""
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip() or not isinstance(answer, str):
        raise UserError(f"{place}: needs the texts question and answer, found {', '.join(row) or 'nothing'}")
    working, mark, tail = answer.rpartition("####")
    gold = number_with_unit(tail)
    if not mark or gold is None:
        raise UserError(f"{place}: the answer must end with #### and one number, found {answer[-40:]!r}")
    steps = len(ANNOTATION.findall(working))
    return Problem(identity, question.strip(), gold, ANNOTATION.sub("", working).strip(), max(1, steps))


def _tables(settings: Gsm8k) -> tuple[dict[str, list[TableRow]], dict[str, Any]]:
    """The rows of both files, and their origin for the card."""
    folder = Path(settings.source)
    if folder.is_dir():
        files = {split: _files(folder, split) for split in SPLITS}
        tables = {split: [row for file in files[split] for row in read_local(file)] for split in SPLITS}
        return tables, describe(settings.source, [*files["train"], *files["test"]])
    commit, origin = pinned(settings.source, settings.revision, "prepare.gsm8k.revision")
    tables = {split: read_hub(settings.source, "main", split, commit) for split in SPLITS}
    return tables, origin


def _files(folder: Path, split: str) -> list[Path]:
    pattern = re.compile(rf"{split}(-\d+-of-\d+)?\.(jsonl|parquet)")
    files = sorted(file for file in folder.iterdir() if pattern.fullmatch(file.name))
    if len({file.suffix for file in files}) != 1:
        names = ", ".join(file.name for file in files) or "neither"
        raise UserError(f"prepare.gsm8k.source {folder}: needs {split}.jsonl or {split}.parquet, found {names}")
    return files
