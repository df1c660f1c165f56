"""Print tables and texts for people: boxed on a terminal, plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

CELL_WIDTH = 48


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells under a header."""
    cells = [[_cell(text) for text in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(head, cells)
        return
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in [list(head), *cells]:
        print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names with their texts, which may have several lines, and an empty line after them."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in pairs:
        table.add_row(Text(name), Text("\n".join(map(_printable, text.expandtabs(4).split("\n")))))
    Console().print(table)
    print()


def _print_rich(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*head)
    for row in rows:
        table.add_row(*(Text(text) for text in row))  # as Text, brackets are no markup
    Console().print(table)


def _cell(text: str) -> str:
    """`text` as printable characters on one line, cut in the middle if it is long."""
    half = CELL_WIDTH // 2
    cut = text if len(text) <= CELL_WIDTH else f"{text[: half - 1]}…{text[-half:]}"
    return _printable(cut)


def _printable(text: str) -> str:
    """`text` with control characters written as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
