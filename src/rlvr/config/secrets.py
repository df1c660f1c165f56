"""Keys and passwords in params.yaml. They are refused and not shown: cards, dvc.lock and reports hold its values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

KEY = re.compile(
    r"\b(?:sk|xai)-(?=[\w-]*\d)[\w-]{16,}|\bgsk_\w{16,}|\b[spr]k_(?:live|test)_\w{10,}|\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}"
    r"|\bglpat-[\w-]{16,}|\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bAIza[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\bya29\.[\w-]{16,}"
    r"|\bBearer\s+\S{8,}|-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{10,}\.[\w-]{10,}\."
)
IN_URL = re.compile(
    r"://[^/\s@]+@|[?&](?:api[-_]?key|key|token|access[-_]?token|secret|password)=[^&\s]+", re.IGNORECASE
)
NAMES = re.compile(
    r"(?:^|_)(?:api_?key|access_?key|secret|password|passwd|access_?token|auth_?token|authorization)$", re.I
)
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
REMEDY = (
    "it looks like a key or password, which this file must not hold: it is committed, and its values are printed. Put "
    "it into an environment variable, and that variable's name here"
)


def secrets_in(raw: Any, name: str = "") -> Iterator[str]:
    """The dotted names of values that look like a secret. Never the values."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from secrets_in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(raw, list):
        for place, value in enumerate(raw):
            yield from secrets_in(value, f"{name}[{place}]")
    elif isinstance(raw, str) and raw and _is_secret(name.rpartition(".")[2], raw):
        yield name


def _is_secret(key: str, value: str) -> bool:
    if key == "api_key_env":
        return not VARIABLE.fullmatch(value)
    return bool(NAMES.search(key) or KEY.search(value) or IN_URL.search(value))
