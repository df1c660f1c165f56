"""The e-mail example: its ideal answers earn everything that its preset rewards, and no other row's answer does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rlvr.rewards.functions import FUNCTIONS
from support.samples import sample_of, well_formed

ROOT = Path(__file__).parent.parent.parent
ROWS = [json.loads(line) for line in (ROOT / "examples/emails.jsonl").read_text().splitlines()]
PRESET = YAML(typ="safe", pure=True).load((ROOT / "presets/email-example.yaml").read_text())
RUBRIC = {name: setting for name, setting in PRESET["rewards"].items() if setting["weight"]}


def points(row: dict[str, Any], answer: str) -> float:
    columns = {name: row[name] for name in ("recipient", "keywords")}
    sample = sample_of(well_formed(answer), gold=row["answer"], columns=columns)
    return sum(FUNCTIONS[name](sample, **setting["options"]) or 0.0 for name, setting in RUBRIC.items())


def test_ideal_answers_earn_six_points() -> None:
    assert {points(row, row["answer"]) for row in ROWS} == {6.0}


def test_another_answer_earns_less() -> None:
    assert all(points(row, other["answer"]) < 5 for row, other in zip(ROWS, ROWS[1:] + ROWS[:1], strict=True))
    assert all(points(row, "") == 0.0 for row in ROWS)


def test_the_question_repeated_lacks_only_the_exact_match() -> None:
    """What docs/rewards.md warns of: a rubric of surface features is met by an echo."""
    assert {points(row, row["question"]) for row in ROWS} == {5.0}


def test_the_rows_are_tasks_of_their_own() -> None:
    assert len(ROWS) == len({row["question"] for row in ROWS}) == 120
    assert all(keyword in row["question"] for row in ROWS for keyword in row["keywords"])
