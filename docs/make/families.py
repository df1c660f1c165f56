"""The table of docs/models.md with the classes that were compared with their own forward pass.

make docs    # builds each of them tiny and writes the distances between the page's markers
"""

from __future__ import annotations

from pathlib import Path

import torch

from support.compared import CLASSES, distances

PAGE = Path("docs/models.md")
MARKS = ("<!-- classes: made by docs/make/families.py -->", "<!-- end of classes -->")


def table() -> str:
    rows = ["| class | model_type | training | native sampler |", "| --- | --- | ---: | ---: |"]
    for kind in sorted(CLASSES):
        name, packed, native = distances(kind)
        rows.append(f"| {name} | {kind} | {packed.nats:.1e} | {native.nats:.1e} |")
    return "\n".join(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    assert end, f"{PAGE} must hold {MARKS[0]} and {MARKS[1]}"
    PAGE.write_text(f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after}", encoding="utf-8")
