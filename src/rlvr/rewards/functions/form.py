"""Rewards for the format: the presence and order of the tags."""

from __future__ import annotations

from rlvr.chat import plain_boxes
from rlvr.rewards.sample import Sample


def format_exact(sample: Sample, *, points: float) -> float:
    """`points` for a well-formed completion, else 0.

    Source: Unsloth's advanced GRPO notebook, match_format_exactly, in the form of docs/decisions/0003.
    """
    return points if sample.reading.answer is not None else 0.0


def format_approximate(sample: Sample, *, present: float, absent: float) -> float:
    """For each of the four tags: `present` if it occurs exactly once, else `absent`.

    Source: Unsloth's advanced GRPO notebook, match_format_approximately.
    """
    once = sample.reading.counts.count(1)
    return once * present + (4 - once) * absent


def soft_format(sample: Sample, *, points: float) -> float:
    """`points` if reasoning and answer are in their tags, in this order and adjacent, with any text around; else 0.

    White space between the two is allowed. Source: Will Brown's GRPO demo for GSM8K, soft_format_reward_func.
    """
    start, end, answer_start, answer_end = sample.tags.marks()
    before, tag, after = plain_boxes(sample.completion.text, sample.tags).partition(answer_start)
    before = before.rstrip()
    is_there = tag and answer_end in after and before.endswith(end) and start in before[: -len(end)]
    return points if is_there else 0.0


def strict_format(sample: Sample, *, points: float) -> float:
    """`points` for a well-formed completion with the line breaks of the tags, as the pre-finetune teaches; else 0.

    One line break at the end may be missing or added. Source: Will Brown's GRPO demo for GSM8K,
    strict_format_reward_func.
    """
    tags, text = sample.tags, sample.completion.text.removesuffix("\n")
    is_strict = (
        sample.reading.answer is not None
        and text.startswith(tags.reasoning_start)
        and text.endswith(tags.answer_end.removesuffix("\n"))
        and tags.reasoning_end + tags.answer_start in text
    )
    return points if is_strict else 0.0


def tag_count(sample: Sample, *, each: float, trailing_character: float) -> float:
    """`each` for every tag that occurs exactly once, plus `trailing_character` (negative) for each character after the
    first end of the answer, without surrounding white space.

    Source: Will Brown's GRPO demo for GSM8K, count_xml: 0.125 and -0.001.
    """
    _, _, trailing = sample.completion.text.partition(sample.tags.marks()[3])
    return sample.reading.counts.count(1) * each + len(trailing.strip()) * trailing_character
