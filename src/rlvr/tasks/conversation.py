"""Conversations in a row, as OpenAI, TRL and verl write them (role, content), or ShareGPT (from, value)."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rlvr.types import Message, UserError

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant",
}  # fmt: skip
KEYS = (("role", "content"), ("from", "value"))


def is_conversation(value: Any) -> bool:
    """Whether `value` is a list of turns, not empty, each with its role and content."""
    return isinstance(value, list) and bool(value) and all(map(_is_turn, value))


def fault_of(value: Any) -> str | None:
    """What keeps a list of turns, or an empty list, from being a conversation; None for one, and for other values."""
    if not isinstance(value, list) or is_conversation(value):
        return None
    if not value:
        return "the conversation has no turns: leave the row out"
    if not any(isinstance(turn, Mapping) and any(role in turn for role, _ in KEYS) for turn in value):
        return None
    number, turn = next((i, turn) for i, turn in enumerate(value, start=1) if not _is_turn(turn))
    if not isinstance(turn, Mapping):
        kind = type(turn).__name__
        return f"turn {number} is no object with role and content, but {kind}: leave the row out, or write one"
    role, missing = next(((turn[key], other) for key, other in KEYS if key in turn), (None, None))
    if missing is None:
        return f"turn {number} has no role: write who speaks (system, user or assistant), or leave the row out"
    calls = ", only tool calls, which rlvr cannot read" if "tool_calls" in turn else ""
    return f"turn {number} ({role}) has no {missing}{calls}: leave the row out, or write the text of the turn"


def unpacked(value: Any) -> Any:
    """A conversation that a cell of a CSV holds as the text of JSON or of a Python list; anything else as it is."""
    if not isinstance(value, str) or not value.startswith("[{") or not value.rstrip().endswith("]"):
        return value
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            turns = parse(value)
            return turns if is_conversation(turns) else value
    return value


def turns_of(value: Any, where: str) -> tuple[Message, ...]:
    """The turns as messages. Raises UserError for a role or a content that a text model cannot read."""
    return tuple(_message(turn, where) for turn in value)


def asked(value: Any, where: str) -> tuple[tuple[Message, ...], str]:
    """The turns before the last question, and that question. An answer at the end belongs to neither.

    Raises UserError if no user asks last.
    """
    turns = turns_of(value, where)
    if turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns or turns[-1]["role"] != "user":
        raise UserError(f"{where}: a conversation must end with a user's turn, or with the answer to one")
    return turns[:-1], turns[-1]["content"].strip()


def last_answer(value: Any, where: str) -> str:
    """What the assistant says last; empty where the conversation ends with another turn."""
    last = turns_of(value, where)[-1]
    return last["content"].strip() if last["role"] == "assistant" else ""


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, Mapping) and any(role in turn and content in turn for role, content in KEYS)


def _message(turn: Mapping[str, Any], where: str) -> Message:
    role_key, content_key = next(keys for keys in KEYS if keys[0] in turn and keys[1] in turn)
    role = ROLES.get(str(turn[role_key]))
    if role is None:
        raise UserError(
            f"{where}: a turn has the role {turn[role_key]!r}; only system, user and assistant can be read: leave "
            "these rows out"
        )
    return {"role": role, "content": _content(turn[content_key], where)}


def _content(content: Any, where: str) -> str:
    if isinstance(content, list):
        return "\n".join(_part(part, where) for part in content)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise UserError(f"{where}: the content of a turn must be text, found {type(content).__name__}")
    return content


def _part(part: Any, where: str) -> str:
    """The text of a part such as {"type": "text", "text": ...}."""
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        raise UserError(f"{where}: a turn has a part without text, such as an image, which rlvr cannot read")
    return text
