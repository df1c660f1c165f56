"""What prepare.records names in a row: a column, a path into one, or a text of several."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from rlvr.tasks.conversation import is_conversation, last_answer
from rlvr.tasks.text import plain_number
from rlvr.types import UserError

PLACE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")  # a brace written twice, or a place
GROUND_TRUTH = "ground_truth"  # verl keeps the gold under this key of the column reward_model


def places(name: str, columns: Collection[str]) -> list[str]:
    """The columns and paths that `name` stands for: itself, or those in the {braces} of a template."""
    return [name] if name in columns else _places(name) or [name]


def lookup(row: Mapping[str, Any], place: str) -> Any:
    """The value of a column or at a dotted path into it, such as extra.gold or prompt.0.content; None if missing."""
    if place in row:
        return row[place]
    value: Any = row
    for part in place.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and re.fullmatch(r"-?\d{1,6}", part) and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def text_at(row: Mapping[str, Any], name: str, where: str) -> str:
    """What `name` says of the row, as stripped text: empty for null and NaN, 4.0 as 4.

    A conversation gives its last answer. A template's lines whose places are all empty are left out. Raises UserError,
    naming `where`, for a value that is neither text nor number.
    """
    value = lookup(row, name)
    if value is None and _places(name):
        return _filled(row, name, where)
    if is_conversation(value):
        return last_answer(value, where)
    return _text(value, name, where)


def texts_at(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    """The same for golds: a list of texts and numbers is several of them, each of which is right.

    Tests and schemas may be written as lists and mappings, which become JSON, and tests as a list of assert statements.
    """
    value = lookup(row, name)
    if isinstance(value, Mapping) and GROUND_TRUTH in value:
        value = value[GROUND_TRUTH]
    if isinstance(value, list) and not is_conversation(value):
        if any(isinstance(item, list | Mapping) for item in value):
            return [_json(value)]
        texts = [text for item in value if (text := _text(item, name, where))]
        if texts and all(text.startswith("assert ") for text in texts):
            return [_json([{"assert": text} for text in texts])]
        return list(dict.fromkeys(texts))
    if isinstance(value, Mapping):
        return [_json(value)]
    text = text_at({name: value}, name, where) if value is not None else text_at(row, name, where)
    return [text] if text else []


def _filled(row: Mapping[str, Any], template: str, where: str) -> str:
    """`template` with its places filled in; {{ and }} stand for braces."""
    value = {place: text_at(row, place, where) for place in _places(template)}
    lines = [line for line in template.split("\n") if not _places(line) or any(value[p] for p in _places(line))]
    filled = PLACE.sub(lambda match: value[match[1]] if match[1] else match[0][0], "\n".join(lines))
    return filled.strip() if any(value.values()) else ""


def _places(template: str) -> list[str]:
    return [place for place in PLACE.findall(template) if place]


def _text(value: Any, name: str, where: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isfinite(value):
        return plain_number(format(Decimal(repr(value)), "f")) or ""
    if isinstance(value, list | Mapping | bytes):
        remedy = {
            "list": f"; name a value in it by its number, as {name}.0",
            "dict": f" of {', '.join(map(str, value))}; name a value in it, as {name}.KEY",
        }
        kind = type(value).__name__
        raise UserError(f"{where}: column {name!r} must hold a text or a number, found {kind}{remedy.get(kind, '')}")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: column {name!r} holds half of a surrogate pair, which is no character") from None
    return text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
