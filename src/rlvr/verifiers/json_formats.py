"""The values of `format` in a JSON Schema that the verifier json_schema checks; the standard lets it ignore others."""

from __future__ import annotations

import json
from typing import Any

CHECKED = (
    "date", "date-time", "email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6", "regex", "time", "uri",
    "uuid",
)  # fmt: skip
BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
VALUES = ("const", "default", "enum", "example", "examples")  # keywords that hold no schemas


def unchecked(schema: str) -> set[str]:
    """The formats in `schema` that are not checked; none for a text that is no JSON, which is no schema either."""
    try:
        todo: list[tuple[Any, bool]] = [(json.loads(schema), False)]
    except (ValueError, RecursionError):
        return set()
    formats = set[str]()
    while todo:
        value, has_names = todo.pop()
        if isinstance(value, list):
            todo += [(inner, False) for inner in value]
        elif isinstance(value, dict):
            if not has_names and isinstance(value.get("format"), str):
                formats.add(value["format"])
            inside = [(key, inner) for key, inner in value.items() if has_names or key not in VALUES]
            todo += [(inner, not has_names and key in BY_NAME) for key, inner in inside]
    return formats - set(CHECKED)
