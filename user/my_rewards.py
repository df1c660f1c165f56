"""Your rewards. Name them in params.yaml; docs/your-own-reward.md lists everything that a function may ask for.

rewards:
  robotic: {python: user/my_rewards.py:robotic, weight: 0.5, options: {penalty: -3.0}}
  variety: {python: user/my_rewards.py:variety, weight: 0.2, options: {}}
  fits: {python: user/my_rewards.py:fits, weight: 1.0, options: {per_word: -0.1}}
"""

from __future__ import annotations

PHRASES = ("as an ai", "i hope this helps", "it is important to note", "delve", "feel free to", "in conclusion")


def robotic(completion: str, *, penalty: float) -> float:
    """`penalty` for a completion with a phrase that only machines write, else 0."""
    text = completion.lower()
    return penalty if any(phrase in text for phrase in PHRASES) else 0.0


def variety(completions: list[str]) -> list[float]:
    """For each completion of a question, the share of the others that differ from it: 0 to 1."""
    others = max(1, len(completions) - 1)
    return [(len(completions) - completions.count(text)) / others for text in completions]


async def fits(completion: str, max_words: int | None = None, *, per_word: float) -> float | None:
    """`per_word` for each word above the row's column `max_words`; does not apply to rows without it.

    async helps a function that waits, for example for your server: all completions of a question run at once.
    """
    if max_words is None:
        return None
    return per_word * max(0, len(completion.split()) - max_words)
