"""Graphics cards, and how much memory each really has."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from rlvr.runtime.bounds import total_memory
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
    Card("RTX 4070 Ti 12GB", 12282 * MIB, True),
    Card("T4 16GB", 15360 * MIB, False),
    Card("RTX 4070 Ti SUPER 16GB", 16376 * MIB, True),
    Card("RTX 4080 16GB", 16376 * MIB, True),
    Card("A10 24GB", 23028 * MIB, True),
    Card("L4 24GB", 23034 * MIB, True),
    Card("RTX 4090 24GB", 24564 * MIB, True),
    Card("RTX 3090 24GB", 24576 * MIB, True),
    Card("RTX 5090 32GB", 32607 * MIB, True),
    Card("A100 40GB", 40960 * MIB, True),
    Card("L40S 48GB", 46068 * MIB, True),
    Card("A6000 48GB", 49140 * MIB, True),
    Card("H100 80GB", 81559 * MIB, True),
    Card("A100 80GB", 81920 * MIB, True),
    Card("H200 141GB", 143771 * MIB, True),
)
TOO_OLD = {"v100": "Volta", "p100": "Pascal", "gtx1080": "Pascal"}
COMMON = ("RTX 3060 12GB", "T4 16GB", "RTX 4090 24GB", "L40S 48GB", "A6000 48GB", "H100 80GB")


def find_card(name: str) -> Card:
    """The card called `name`, with or without its size, or by a part that only it has (H100, 4090).

    Raises UserError with the nearest names, and for a card that is too old with the reason.
    """
    plain = {_plain(card.name): card for card in CARDS}
    query = _plain(name)
    if old := next((old for old in TOO_OLD if old in query), None):
        raise UserError(
            f"{name} cannot run this: it is a {TOO_OLD[old]}, which CUDA 13 and the builds of torch on it no longer "
            "support. The oldest cards that they do are Turings, such as the T4"
        )
    named = [card for card in CARDS if len(query) > 1 and _plain(card.name.rpartition(" ")[0]).endswith(query)]
    matching = named or [card for key, card in plain.items() if len(query) > 1 and query in key]
    if len(matching) == 1:
        return matching[0]
    near = [card.name for card in named] or [plain[key].name for key in difflib.get_close_matches(query, plain, n=1)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    listed = ", ".join(card.name for card in CARDS)
    raise UserError(f"there is no card {name!r}; there are {listed}{hint} (or give --vram-gib)")


def card_of_size(vram_gib: float) -> Card:
    """A card that is known only by its memory."""
    if not 0 < vram_gib < 10_000:
        raise UserError(f"--vram-gib is {vram_gib}; it must be a card's memory in GiB, above 0")
    return Card(f"{vram_gib:g} GiB", round(vram_gib * GIB), True)


def this_host() -> Card:
    """The main memory of this machine, or of its container, for runs on its CPU."""
    return Card("this machine's memory", total_memory(), True)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("tesla").removeprefix("geforce")
