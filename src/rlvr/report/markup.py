"""Build small pieces of HTML. Texts are escaped here; `parts` and `sections` are HTML already."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from rlvr.report.style import CSS


def document(title: str, sections: Sequence[str]) -> str:
    """A self-contained page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str, css: str = "") -> str:
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section class="{css}">{heading}\n' + "\n".join(parts) + "\n</section>"


def paragraph(text: str, *, css: str = "") -> str:
    return f'<p class="{css}">{escape(text)}</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, css: str = "", long: Sequence[int] = ()) -> str:
    """A table of texts. Text after a line break in a cell is set small. Columns in `long` may break anywhere."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(_cell(cell, is_long=i in long) for i, cell in enumerate(row)) + "</tr>\n" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{css}">\n<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def figure(png: bytes, title: str, caption: str, *, css: str = "") -> str:
    """A figure whose image is embedded in the page."""
    data = base64.b64encode(png).decode("ascii")
    image = f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
    return f'<figure class="{css}"><h3>{escape(title)}</h3>{image}<figcaption>{escape(caption)}</figcaption></figure>'


def folded(title: str, *parts: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n" + "\n".join(parts) + "\n</details>"


def _cell(text: str, *, is_long: bool) -> str:
    first, _, rest = text.partition("\n")
    small = f"<small>{escape(rest)}</small>" if rest else ""
    kind = "long" if is_long else ""
    return f'<td class="{kind}">{escape(first)}{small}</td>'
