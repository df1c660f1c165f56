"""Graphics cards, and how much memory each really has."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass

from rlvr.types import UserError

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True)
class Card:
    """`memory_bytes` is the total that nvidia-smi shows, not what the box says; some of it is the driver's."""

    name: str
    memory_bytes: int
    has_bf16: bool


CARDS = (
    Card("RTX 3060 12GB", 12288 * MIB, True),
    Card("T4 16GB", 15360 * MIB, False),
    Card("RTX 4090 24GB", 24564 * MIB, True),
    Card("L40S 48GB", 46068 * MIB, True),
    Card("A6000 48GB", 49140 * MIB, True),
    Card("H100 80GB", 81559 * MIB, True),
    Card("A100 80GB", 81920 * MIB, True),
    Card("H200 141GB", 143771 * MIB, True),
)
COMMON = ("RTX 3060 12GB", "T4 16GB", "RTX 4090 24GB", "L40S 48GB", "A6000 48GB", "H100 80GB")


def find_card(name: str) -> Card:
    """The card called `name` or by a part that only it has (H100, 4090). Raises UserError with the nearest name."""
    plain = {_plain(card.name): card for card in CARDS}
    query = _plain(name)
    matching = [card for key, card in plain.items() if len(query) > 1 and query in key]
    if len(matching) == 1:
        return matching[0]
    near = difflib.get_close_matches(query, plain, n=1)
    hint = f"; did you mean {plain[near[0]].name}?" if near else ""
    listed = ", ".join(card.name for card in CARDS)
    raise UserError(f"there is no card {name!r}; there are {listed}{hint} (or give --vram-gib)")


def card_of_size(vram_gib: float) -> Card:
    """A card that is known only by its memory."""
    if not 0 < vram_gib < 10_000:
        raise UserError(f"--vram-gib is {vram_gib}; it must be a card's memory in GiB, above 0")
    return Card(f"{vram_gib:g} GiB", round(vram_gib * GIB), True)


def this_host() -> Card:
    """The main memory of this machine, for runs on its CPU."""
    return Card("this machine's memory", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), True)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")
