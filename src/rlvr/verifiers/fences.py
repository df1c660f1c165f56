"""Remove the code fence around an answer."""

from __future__ import annotations

import re

FENCED = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


def unfence(answer: str) -> str:
    """The content of the code fence if that is the whole answer, else the stripped answer."""
    text = answer.strip()
    fence = FENCED.fullmatch(text)
    return fence[1] if fence and "```" not in fence[1] else text
