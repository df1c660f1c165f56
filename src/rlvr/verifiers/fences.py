"""Code fences: remove the one around an answer, and find the program among several."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

FENCE = "```"
PYTHON = ("python", "py", "python3", "py3")
FENCED = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


def unfence(answer: str) -> str:
    """The content of the code fence if that is the whole answer, else the stripped answer."""
    text = answer.strip()
    fence = FENCED.fullmatch(text)
    return fence[1] if fence and "```" not in fence[1] else text


def program_in(answer: str, names: Collection[str]) -> str:
    """The last fenced block of Python that defines the most of `names`, or all of `answer` without a fence.

    Where no block defines any, the last one that is marked as Python, else the last one that could be a program and
    not only its output, else the last one.
    """
    blocks = [block.partition("\n") for block in answer.split(FENCE)[1::2]]
    if not blocks:
        return answer
    languages = [mark.strip().lower().partition(" ")[0] for mark, _, _ in blocks]
    texts = [text for _, _, text in blocks]
    python = [text for language, text in zip(languages, texts, strict=True) if language in ("", *PYTHON)]
    defined = [sum(_defines(text, name) for name in names) for text in python]
    marked = [text for language, text in zip(languages, texts, strict=True) if language in PYTHON]
    best = [text for text, count in zip(python, defined, strict=True) if 0 < count == max(defined)]
    return (best or marked or [text for text in python if _is_program(text)] or texts)[-1]


def _defines(program: str, name: str) -> bool:
    """Whether a line at the left margin defines `name`. A program that does not parse can define it, too."""
    own = rf"(?:async\s+def|def|class)\s+{name}\b|{name}\s*(?::[^=\n]+)?=(?!=)|(?:from|import)\b.*\b{name}\b"
    return re.search(rf"^(?:{own})", program, re.MULTILINE) is not None


def _is_program(text: str) -> bool:
    """Whether `text` is Python that does something: more than names and literals, as printed output may be."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return any(not isinstance(line, ast.Expr) or any(isinstance(n, ast.Call) for n in ast.walk(line)) for line in body)
