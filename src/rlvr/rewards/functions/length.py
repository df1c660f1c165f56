"""Rewards for length, in tokens of the completion or words of the answer."""

from __future__ import annotations

from rlvr.chat import plain_boxes
from rlvr.rewards.functions.prose import LONGEST, count_words
from rlvr.rewards.sample import Sample


def soft_overlong(sample: Sample, *, max_tokens: int, cache_tokens: int) -> float:
    """0 up to L − cache_tokens, then (L − cache_tokens − n) / cache_tokens, which is −1 at L, and −1 beyond.

    n tokens, the end of sequence included; L = max_tokens. Source: soft overlong punishment, DAPO (arXiv 2503.14476,
    eq. 13).
    """
    beyond = sample.completion.num_tokens - (max_tokens - cache_tokens)
    if beyond <= 0:
        return 0.0
    return -1.0 if beyond >= cache_tokens else -beyond / cache_tokens


def min_length(sample: Sample, *, tokens: int, points: float) -> float:
    """`points` (a penalty is negative) for a completion of fewer than `tokens` tokens, else 0.

    Written for this project.
    """
    return points if sample.completion.num_tokens < tokens else 0.0


def max_length(sample: Sample, *, tokens: int, points: float) -> float:
    """`points` (a penalty is negative) for a completion of more than `tokens` tokens, else 0.

    Written for this project.
    """
    return points if sample.completion.num_tokens > tokens else 0.0


def too_long(sample: Sample, *, words: int, points: float) -> float:
    """`points` (a penalty is negative) for more than `words` words from the first answer tag after the reasoning to the
    end of the completion, else 0.

    Two characters of a script without spaces (Chinese, Thai …) are a word, and so are 20 of a longer one. Source: the
    e-mail rubric of Unsloth's GRPO guide: -1.
    """
    _, end, answer_start, answer_end = sample.tags.marks()
    text = plain_boxes(sample.completion.text[:LONGEST], sample.tags)
    after = (text.partition(end)[2] or text).partition(answer_start)[2]
    return points if count_words(after.replace(answer_end, " ")) > words else 0.0
