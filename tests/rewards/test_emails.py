"""The e-mail example: its ideal answers earn everything that its preset rewards, and no other row's answer does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
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


def signed(text: str) -> bool:
    return FUNCTIONS["signature_block"](sample_of(well_formed(text)), points=1.0) == 1.0


@pytest.mark.parametrize(
    "number",
    [
        "+44 20 7946 0123", "020 7946 0123", "(020) 7946-0123", "555-0123", "555.0123", "(555) 123-4567",
        "555 123 4567",
        "555.123.4567", "5551234567", "+1-555-123-4567", "+15551234567", "030/1234567", "030 1234567", "0171.2345678",
        "089 / 12 34 56 78", "01 23 45 67 89", "+49 (0)89 123456", "1-800-555-0123", "06-12345678", "98765 43210",
    ],
)  # fmt: skip
def test_a_phone_number_in_a_usual_notation_signs(number: str) -> None:
    for text in (f"Thanks. Sam {number}", f"Phone: {number}", f"Tel. no. {number}", f"Sam\n{number}\nYork",
                 f"Call me at {number}.", f"My number is {number}"):  # fmt: skip
        assert signed(text), text


@pytest.mark.parametrize(
    "text",
    [
        "It is 3.14159265.", "The sum is 1234.56789", "12345.6789 in all", "ISBN 978-3-16-148410-0",
        "978-3-16-148410-0",
        "9783161484100", "Invoice 2026-000123", "Invoice no. 2026-000123", "2026-000123", "2026/0001234",
        "Order 1234567890", "order number: 1234567890", "Order #1234567890", "#1234567", "Ref. 12-345678",
        "Your ticket is 1234567", "Account 12345678", "Customer ID 1234567", "Case 555-1234567",
        "tracking code 123456789",
        "192.168.100.200", "IBAN 12345678901234", "Rechnung Nr. 1234567", "1 2 3", "12/2026",
    ],
)  # fmt: skip
def test_other_numbers_sign_nothing(text: str) -> None:
    assert not signed(f"Thanks. {text}\nSam")
