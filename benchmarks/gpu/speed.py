"""The least that the work of an update can take on a card: every FLOP and byte at the card's published peak.

A bound and no forecast: products rarely reach 70 % of a peak, launches and waiting cost time of which nothing is here.
What it shows is where the time must go, and how far the work itself is from that of an ideal update: products and
attention of forward and backward once each, all else fused into them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlvr.plan.cards import Card, find_card
from rlvr.plan.work import Work, least_seconds

TERA, GIGA = 1e12, 1e9
CARDS = tuple(find_card(name) for name in ("H100", "A100 80GB", "4090", "T4"))


def ideal_seconds(plain: Work, card: Card) -> float:
    """The same for an ideal update; `plain` is the work where nothing is recomputed."""
    return (plain.product_flops + plain.attention_flops) / card.speed.flops


def speed_lines(phases: Mapping[str, Work], plain: Work, *, has_flash: bool) -> Iterator[str]:
    """A table of the work of each phase, and one of the least seconds on each card that does it so."""
    total = summed(phases)
    cards = [card for card in CARDS if card.has_bf16 == has_flash]
    header = ("TFLOP", "attention", "GB unpacked", "others", "to host", "from host", "launches")
    yield f"  {'':18}" + "".join(f"{name:>13}" for name in header)
    for name, work in (*phases.items(), ("update", total)):
        cells = (
            work.product_flops / TERA, work.attention_flops / TERA, work.unpacked_bytes / GIGA,
            work.other_bytes / GIGA, work.to_host_bytes / GIGA, work.from_host_bytes / GIGA,
        )  # fmt: skip
        yield f"  {name:18}" + "".join(f"{cell:13,.1f}" for cell in cells) + f"{work.launches:13,}"
    yield f"  {'least seconds':18}" + "".join(f"{card.name:>13}" for card in cards)
    kinds = [least_seconds(total, card.speed) for card in cards]
    for kind in kinds[0]:
        yield f"  {kind:18}" + "".join(f"{seconds[kind]:13.2f}" for seconds in kinds)
    bounds = [bound_seconds(total, card) for card in cards]
    yield f"  {'update':18}" + "".join(f"{bound:13.2f}" for bound in bounds)
    ratios = [bound / ideal_seconds(plain, card) for bound, card in zip(bounds, cards, strict=True)]
    yield f"  {'over the ideal':18}" + "".join(f"{ratio:12.2f}×" for ratio in ratios)


def bound_seconds(work: Work, card: Card) -> float:
    """The larger of what the card computes and what the link carries meanwhile."""
    *on_card, link = least_seconds(work, card.speed).values()
    return max(sum(on_card), link)


def summed(phases: Mapping[str, Work]) -> Work:
    total = Work()
    for work in phases.values():
        total.add(work)
    return total
