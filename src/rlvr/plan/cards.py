"""Graphics cards, how much memory each really has, and how fast it is at best."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from rlvr.runtime.bounds import total_memory
from rlvr.types import UserError

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True)
class Speed:
    """Per second: dense 16-bit products summed in float32, the card's memory, the link to the host in one direction."""

    flops: float
    memory_bytes: float
    link_bytes: float


def _speed(teraflops: float, memory_gb: float, link_gb: float) -> Speed:
    return Speed(teraflops * 1e12, memory_gb * 1e9, link_gb * 1e9)


SPEED_OF = "an A10"  # where only the memory of a card is known
ASSUMED_SPEED = _speed(125.0, 600.0, 32.0)


@dataclass(frozen=True)
class Card:
    """`memory_bytes` is the total that nvidia-smi shows, not what the box says; some of it is the driver's.

    `speed` has the peaks of NVIDIA's datasheets and architecture whitepapers, of the SXM form where several exist.
    """

    name: str
    memory_bytes: int
    has_bf16: bool
    speed: Speed = ASSUMED_SPEED


CARDS = (
    Card("RTX 3060 12GB", 12288 * MIB, True, _speed(25.5, 360.0, 32.0)),
    Card("RTX 4070 Ti 12GB", 12282 * MIB, True, _speed(80.2, 504.2, 32.0)),
    Card("T4 16GB", 15360 * MIB, False, _speed(65.0, 320.0, 16.0)),
    Card("RTX 4070 Ti SUPER 16GB", 16376 * MIB, True, _speed(88.2, 672.3, 32.0)),
    Card("RTX 4080 16GB", 16376 * MIB, True, _speed(97.5, 716.8, 32.0)),
    Card("A10 24GB", 23028 * MIB, True, _speed(125.0, 600.0, 32.0)),
    Card("L4 24GB", 23034 * MIB, True, _speed(121.0, 300.0, 32.0)),
    Card("RTX 4090 24GB", 24564 * MIB, True, _speed(165.2, 1008.0, 32.0)),
    Card("RTX 3090 24GB", 24576 * MIB, True, _speed(71.0, 936.2, 32.0)),
    Card("RTX 5090 32GB", 32607 * MIB, True, _speed(209.5, 1792.0, 64.0)),
    Card("A100 40GB", 40960 * MIB, True, _speed(312.0, 1555.0, 32.0)),
    Card("L40S 48GB", 46068 * MIB, True, _speed(362.0, 864.0, 32.0)),
    Card("A6000 48GB", 49140 * MIB, True, _speed(154.8, 768.0, 32.0)),
    Card("H100 80GB", 81559 * MIB, True, _speed(989.4, 3350.0, 64.0)),
    Card("A100 80GB", 81920 * MIB, True, _speed(312.0, 2039.0, 32.0)),
    Card("H200 141GB", 143771 * MIB, True, _speed(989.4, 4800.0, 64.0)),
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
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)(?:gi?b)?", query):
        hint = f"; for a card of that memory give --vram-gib {size[1]}"
    raise UserError(f"unknown card {name!r}; known: {listed}{hint or ' (or give --vram-gib)'}")


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
