"""Plain English in docstrings, messages, option helps and comments: phrases that read translated are refused."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted((SOURCE / "rlvr").rglob("*.py"))
BANNED = {  # pattern, spaces standing for any white space: what to write instead
    r"mend(s|ed|ing)?": "fix",
    r"beside": "next to, compared with, while … runs",
    r"of (its|their|his|your|our|my) own": "its own …",
    r"(is|are|was|were) (not )?there": "exists, is missing",
    r"in the mean(?! of)": "on average",
    r"(go|goes|went) on": "resumes, continues",
    r"(own|our|their) fault": "because scoring failed",
    r"anew": "again",
    r"as it stands": "unchanged",
    r"over again": "again",
    r"nobody's business": "",
    r"comes? to": "is, amounts to",
    r"(is|are) said": "is reported",
    r"(hold|held) (\w+ ){1,4}against": "compare … with",
    r"made of": "consists of",
}
PATTERN = re.compile("|".join(rf"\b{pattern}\b".replace(" ", r"\s+") for pattern in BANNED), re.IGNORECASE)


def texts(source: str) -> Iterator[tuple[int, int, str]]:
    """Docstrings, other strings and blocks of comments: first line, last line, text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.end_lineno or node.lineno, node.value
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if block and line != last + 1:
                yield last - len(block) + 1, last, "\n".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = line
    yield last - len(block) + 1, last, "\n".join(block)


def findings(source: str) -> list[tuple[int, str]]:
    """The banned phrases in `source`, each with its line."""
    return sorted(
        {
            (min(first + text.count("\n", 0, match.start()), last), " ".join(match[0].split()))
            for first, last, text in texts(source)
            for match in PATTERN.finditer(text)
        }
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Say\nwhere it\nis  there."""', [(3, "is there")]),
        ("x = 1  # runs beside y\n", [(1, "beside")]),
        ("y = 2\n# It goes\n# on later.\nx = 1\n", [(2, "goes on")]),
        ('raise ValueError(f"{x}\\n" "mend it")', [(1, "mend")]),
        ('help = "Held against it. Held up against it."', [(1, "Held up against")]),
        ('"""Besides, there is more to amend, and a recommended one."""', []),
    ],
)
def test_what_is_found(source: str, expected: list[tuple[int, str]]) -> None:
    assert findings(source) == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_plain_english(file: Path) -> None:
    found = [f"{file.relative_to(SOURCE.parent)}:{line}: {phrase!r}" for line, phrase in findings(file.read_text())]
    assert not found, "\n".join([*found, "write instead:", *(f"  {a}: {b}" for a, b in BANNED.items())])
