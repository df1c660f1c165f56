"""Code fences: remove the one around an answer, and find the program among several."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from itertools import islice

PYTHON = ("python", "py", "python3", "py3")
FENCED = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
MOST_FENCES, MOST_ENDS = 64, 16  # after the beginning of a block: those looked at, and possible ends that are tried

_INSIDE = re.compile(r"^[ \t]*```", re.MULTILINE)
_OPENING = re.compile(r"`{3,}[^`\n]+`{3,}|(?P<fence>`{3,})(?P<language>[^`\n]*)(?:\n|\Z)")  # not ```code``` in a line
_MARGIN = re.compile(r"^([ \t]*)[^\s#]", re.MULTILINE)


def unfence(answer: str) -> str:
    """The content of the code fence if that is the whole answer, else the stripped answer."""
    text = answer.strip().removeprefix("\ufeff").strip()
    fence = FENCED.fullmatch(text)
    return fence[1] if fence and not _INSIDE.search(fence[1]) else text


def program_in(answer: str, names: Collection[str]) -> str:
    """The last fenced block of Python that defines the most of `names`, or all of `answer` without a fence.

    Where no block defines any, the last one that is marked as Python, else the last one that could be a program and
    not only its output, else the last one. A fence in a text of the program does not end its block, and a block that is
    indented as a whole loses its margin.
    """
    blocks = list(_blocks(answer))
    if not blocks:
        return answer
    languages = [language for language, _ in blocks]
    texts = [text for _, text in blocks]
    python = [text for language, text in zip(languages, texts, strict=True) if language in ("", *PYTHON)]
    defined = [sum(_defines(text, name) for name in names) for text in python]
    marked = [text for language, text in zip(languages, texts, strict=True) if language in PYTHON]
    best = [text for text, count in zip(python, defined, strict=True) if 0 < count == max(defined)]
    return (best or marked or [text for text in python if _is_program(text)] or texts)[-1]


def _blocks(answer: str) -> Iterator[tuple[str, str]]:
    """The language and the content of each fenced block."""
    at = 0
    while opening := _OPENING.search(answer, at):
        at = opening.end()
        if opening["fence"]:
            language = opening["language"].strip().lower().partition(" ")[0]
            is_python = language in ("", *PYTHON)
            end, at = _end(answer, at, opening["fence"], is_python=is_python)
            yield language, _without_margin(answer[opening.end() : end])


def _end(answer: str, start: int, fence: str, *, is_python: bool) -> tuple[int, int]:
    """Where the block that begins at `start` ends, and where its closing fence ends.

    Python ends at the first fence before which it can be parsed, so a docstring may hold fences. Any other text, and a
    program with an error, ends at the first line that holds nothing but the fence, else at the first fence.
    """
    pattern = re.compile(rf"(?P<margin>^[ \t]*)?{fence}`*(?P<rest>[ \t\r]*$)?", re.MULTILINE)
    marks = list(islice(pattern.finditer(answer, start), MOST_FENCES))
    lines = [mark for mark in marks if mark["margin"] is not None]
    alone = [mark for mark in lines if mark["rest"] is not None]
    inside = [mark for mark in marks if mark["margin"] is None and mark["rest"] is not None]
    ends = [(mark.start(), mark.end()) for mark in lines[:MOST_ENDS]]
    ends += [(len(answer), len(answer))] if len(marks) < MOST_FENCES else []
    ends += [(mark.start(), mark.end()) for mark in inside[:MOST_ENDS]]
    first = next(iter([*alone, *lines, *marks]), None)
    default = (first.start(), first.end()) if first else (len(answer), len(answer))
    return next((end for end in ends if is_python and _parsed(answer[start : end[0]])), default)


def _without_margin(text: str) -> str:
    """`text` moved to the left by the indentation of its first line of code."""
    first = _MARGIN.search(text)
    return re.sub(rf"^[ \t]{{1,{len(first[1])}}}", "", text, flags=re.MULTILINE) if first and first[1] else text


def _parsed(text: str) -> list[ast.stmt] | None:
    """The statements of `text`; None unless it is Python with any."""
    if "```" in text and not any(mark in text for mark in "\"'#"):  # the only places for a fence
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(_without_margin(text)).body or None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _defines(program: str, name: str) -> bool:
    """Whether a line at the left margin defines `name`. A program that does not parse can define it, too."""
    own = rf"(?:async\s+def|def|class)\s+{name}\b|{name}\s*(?::[^=\n]+)?=(?!=)|(?:from|import)\b.*\b{name}\b"
    return re.search(rf"^(?:{own})", program, re.MULTILINE) is not None


def _is_program(text: str) -> bool:
    """Whether `text` is Python that does something: more than names and literals, as printed output may be."""
    body = _parsed(text) or ()
    return any(not isinstance(line, ast.Expr) or any(isinstance(n, ast.Call) for n in ast.walk(line)) for line in body)
