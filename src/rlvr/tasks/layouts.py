"""Which columns hold question and answer, in tables that are laid out for other trainers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlvr.tasks.cells import lookup, places
from rlvr.tasks.conversation import fault_of, is_conversation, last_answer, turns_of
from rlvr.tasks.table import TableRow
from rlvr.types import UserError

if TYPE_CHECKING:
    from rlvr.config import Records

KEY = "prepare.records."
CONVERSATIONS = ("prompt", "messages", "conversations")  # TRL and verl, OpenAI and TRL, ShareGPT
PROMPT = CONVERSATIONS[0]
GOLDS = ("reward_model.ground_truth", "ground_truth", "solution", "completion")  # verl, TRL
OPTIONAL = ("working", "solution", "level")  # null in params.yaml means none


@dataclass(frozen=True)
class Layout:
    """Where the parts of a problem are, as in prepare.records.columns; `note` says what was found by itself."""

    question: str
    answer: str
    working: str | None
    solution: str | None
    level: str | None
    note: str | None = None

    def named(self) -> dict[str, str]:
        names = {key: getattr(self, key) for key in ("question", "answer", *OPTIONAL)}
        return {key: name for key, name in names.items() if name is not None}


def layout_of(records: Records, rows: Sequence[TableRow], source: str) -> Layout:
    """The columns as configured; in a table of conversations without them, where such tables have their parts.

    Raises UserError for a column that does not exist, with those that do.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    layout = Layout(**records.columns.model_dump())
    if not _exists(layout.question, columns):
        layout = _conversations(layout, rows, columns, source) or layout
    names = {f"columns.{key}": name for key, name in layout.named().items()}
    for key, name in (names | {f"filters.{name}": name for name in records.filters}).items():
        for place in places(name, columns):
            _check(key, place, rows, columns, source)
    return layout


def _conversations(layout: Layout, rows: Sequence[TableRow], columns: Sequence[str], source: str) -> Layout | None:
    """The layout of a table of conversations; the last answer is the gold, or the worked solution of one.

    A prompt may be text, too, as in TRL's tables without chats.
    """
    number, chat = _first_conversation(rows, source)
    first = rows[number - 1]
    is_text = chat is None and isinstance(first.get(PROMPT), str)
    if is_text:
        chat = PROMPT
    if chat is None:
        return None
    has_answer = not is_text and bool(last_answer(first[chat], f"{source} row {number}"))
    golds = [layout.answer, *GOLDS, *([chat] if has_answer else [])]
    answer = next((gold for gold in golds if lookup(first, gold) is not None), None)
    if is_text and answer is None:
        return None
    if answer is None and turns_of(first[chat], source)[-1]["role"] == "assistant" and layout.answer not in columns:
        raise UserError(
            f"{source} row {number}: turn {len(first[chat])} (assistant), the last of {chat!r}, has no text, and no "
            f"other column holds the answer: leave the row out, or name the column with {KEY}columns.answer"
        )
    answer = answer or layout.answer
    optional = {key: name for key in OPTIONAL if _exists(name := getattr(layout, key), columns)}
    if has_answer and answer != chat:
        optional["working"] = chat
    columns_read = Layout(chat, answer, **{key: optional.get(key) for key in OPTIONAL})
    named = ", ".join(f"{key}: {name}" for key, name in columns_read.named().items())
    kind = "prompts" if is_text else "conversations"
    return replace(
        columns_read,
        note=f"{source} has no column {layout.question!r} and was read as {kind}, as if {KEY}columns had {named}",
    )


def _first_conversation(rows: Sequence[TableRow], source: str) -> tuple[int, str | None]:
    """The number of the first row with a conversation, and its column; 1 and None without any.

    Raises UserError where a column holds nothing but turns that cannot be read.
    """
    for name in CONVERSATIONS:
        values = [lookup(row, name) for row in rows]
        if number := next((i for i, value in enumerate(values, start=1) if is_conversation(value)), None):
            return number, name
        faults = ((i, fault) for i, value in enumerate(values, start=1) if (fault := fault_of(value)))
        if (found := next(faults, None)) and not isinstance(rows[0].get(PROMPT), str):
            raise UserError(f"{source} row {found[0]}: column {name!r}: {found[1]}")
    return 1, None


def _exists(name: str | None, columns: Sequence[str]) -> bool:
    return name is not None and all(
        place in columns or place.split(".")[0] in columns for place in places(name, columns)
    )


def _check(key: str, place: str, rows: Sequence[TableRow], columns: Sequence[str], source: str) -> None:
    head = place if place in columns else place.split(".", maxsplit=1)[0]
    if head not in columns:
        close = difflib.get_close_matches(place, columns, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        if not close and key.removeprefix("columns.") in OPTIONAL:
            hint = f": set {KEY}{key} to null"
        raise UserError(f"{KEY}{key}: {source} has no column {place!r}; it has {', '.join(columns)}{hint}")
    if head != place and all(lookup(row, place) is None for row in rows):
        inside = next((value for row in rows if (value := row.get(head)) is not None), None)
        keys = f"its keys {', '.join(map(str, inside))}" if isinstance(inside, dict) else type(inside).__name__
        raise UserError(f"{KEY}{key}: {source} has nothing at {place!r}; the column {head!r} holds {keys}")
