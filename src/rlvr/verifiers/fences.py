"""Answers in a code fence."""

from __future__ import annotations

import re

FENCED = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


def unfence(answer: str) -> str:
    """What stands inside the code fence when that is the whole answer; else the answer without spaces around it."""
    text = answer.strip()
    fence = FENCED.fullmatch(text)
    return fence[1] if fence and "```" not in fence[1] else text
