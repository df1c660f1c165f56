"""The tables of docs/rewards.md, from the examples that the tests check.

make docs    # writes them between the page's markers
"""

from __future__ import annotations

from pathlib import Path

from rlvr.rewards.functions import FUNCTIONS
from support import reward_examples, verifier_examples

PAGE = Path("docs/rewards.md")


def verifier_table() -> str:
    rows = ["| verifier | right: answer ← gold | wrong: answer ← gold |", "|---|---|---|"]
    for name, examples in verifier_examples.EXAMPLES.items():
        cells = (
            "<br>".join(f"{_code(answer)} ← {_code(gold)}" for answer, gold in cases)
            for cases in (examples.right, examples.wrong)
        )
        rows.append(f"| {name}{_options(examples.options)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def reward_table() -> str:
    rows = ["| function | earns more | earns less |", "|---|---|---|"]
    for name, examples in reward_examples.EXAMPLES.items():
        cells = (
            "<br>".join(f"{_code(case.shown)} {_points(case.points)}" for case in cases)
            for cases in (examples.high, examples.low)
        )
        rows.append(f"| {name}{_options(examples.options)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def sources() -> str:
    """What each function gives and where it comes from, as its docstring says."""
    rows = []
    for name, function in FUNCTIONS.items():
        said = " ".join((function.__doc__ or "").split())
        rows.append(f"- **{name}**: {said}")
    return "\n".join(rows)


def filled(page: str) -> str:
    """`page` with its tables made new. Raises ValueError without the markers."""
    for name, table in (("verifiers", verifier_table()), ("rewards", reward_table()), ("sources", sources())):
        begin, end = f"<!-- {name}: made by docs/make/rewards.py -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{PAGE.name} has no {begin} ... {end}")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def _options(options: dict[str, object]) -> str:
    return "<br>" + "<br>".join(f"{key}: {_code(str(value))}" for key, value in options.items()) if options else ""


def _points(points: float | None) -> str:
    return "does not apply" if points is None else f"**{points:g}**"


def _code(text: str) -> str:
    """`text` on one line as code, cut where it is long, with what would end a table's cell written out."""
    shown = text.replace("\n", "⏎")
    shown = shown if len(shown) <= 90 else shown[:87] + "…"
    for character, written in {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "&#124;",
        "*": "&#42;",
        "_": "&#95;",
    }.items():
        shown = shown.replace(character, written)
    for character in "\\`$[]":
        shown = shown.replace(character, f"&#{ord(character)};")
    return f"<code>{shown}</code>" if shown else "(empty)"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
