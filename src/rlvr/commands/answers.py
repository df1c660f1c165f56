"""Questions from a person or a file, and the printed form of a model's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.chat import Tags, read
from rlvr.runtime.files import read_text
from rlvr.runtime.printing import print_pairs
from rlvr.tasks.table import READERS, TableRow, read_local
from rlvr.types import Completion, Group, Problem, UserError

CONTEXT = "turns before the question"  # the column of held-out conversations


def read_questions(file: Path, column: str) -> list[TableRow]:
    """One row per question, from `column` of a table or from the lines of any other file. Raises UserError."""
    if file.suffix.lower() not in READERS and not file.is_dir():
        return [{"question": line} for line in _lines(file)]
    rows = read_local(file)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get(column), str) or not row[column].strip():
            raise UserError(
                f"{file} row {number}: the column {column!r} holds no question. Name one of {', '.join(row)} "
                "with --column"
            )
    return [{**row, "question": row[column]} for row in rows]


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in read_text(file).splitlines()]
    if not any(lines):
        raise UserError(f"{file} holds no question: write one on each line, or give one of {', '.join(READERS)}")
    return [line for line in lines if line]


def to_problems(rows: Sequence[TableRow]) -> list[Problem]:
    """A problem for each row. Its id is the row number, which seeds its random numbers."""
    return [
        Problem(str(number), row["question"], "", "", 0, context=tuple(row.get(CONTEXT, ())))
        for number, row in enumerate(rows)
    ]


def records(row: Mapping[str, Any], group: Group, tags: Tags) -> Iterator[dict[str, Any]]:
    """For each completion: the row of the question, the text, and its tagged parts (None without the tags)."""
    for completion in group.completions:
        reading = read(completion.text, tags)
        yield {
            **row,
            "completion": completion.text,
            "completion_reasoning": reading.reasoning,
            "completion_answer": reading.tagged,
            "num_tokens": len(completion.token_ids),
            "is_truncated": completion.is_truncated,
        }


def show(row: Mapping[str, Any], group: Group, tags: Tags) -> None:
    """Print a question and its completions for a person, next to the gold answer if the row has one."""
    pairs = [("question", str(row["question"]))]
    if row.get("answer") not in (None, ""):
        pairs.append(("gold", str(row["answer"])))
    for completion in group.completions:
        pairs += _parts(completion, tags)
    print_pairs(pairs)


def _parts(completion: Completion, tags: Tags) -> list[tuple[str, str]]:
    reading = read(completion.text, tags)
    cut = f" (cut at {len(completion.token_ids)} tokens)" if completion.is_truncated else ""
    if reading.tagged is None:
        return [("no answer tag" + cut, completion.text)]
    reasoning = [("reasoning", reading.reasoning.strip())] if reading.reasoning else []
    return [*reasoning, ("answer" + cut, reading.tagged.strip())]
