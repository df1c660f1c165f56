"""Rewards for the answer: right or wrong, and the distance of a number from the gold."""

from __future__ import annotations

import math
from fractions import Fraction

from rlvr.rewards.functions.outcome import by_verdict
from rlvr.rewards.sample import Sample
from rlvr.verifiers.number import first, parse
from rlvr.verifiers.text import has_many_marks, normalise


def answer(
    sample: Sample,
    *,
    exact: float,
    stripped: float,
    within_10_percent: float,
    within_20_percent: float,
    wrong: float,
    not_a_number: float,
    missing: float,
) -> float:
    """Points for the answer of a well-formed completion; the further from the gold, the fewer.

    `exact` is for the same text; `stripped` for an answer that the verifier calls right, the same text up to white
    space, or the same number. The other numbers are graded by |x − g| / |g|, which is infinite for a gold of 0; where
    the gold is not a number, every other answer is `wrong`. NaN if the verifier failed.
    Source: Unsloth's advanced GRPO notebook, check_answer, in the form of docs/decisions/0003.
    """
    guess, gold = sample.reading.answer, sample.problem.answer
    if guess is None:
        return missing
    if sample.verdict.is_fault:
        return math.nan
    if guess == gold:
        return exact
    if sample.verdict.is_right or guess.strip() == gold.strip():
        return stripped
    number, wanted = parse(guess), parse(gold)
    if wanted is None:
        return wrong
    if number is None:
        return not_a_number
    distance = abs(number - wanted)
    if not distance:
        return stripped
    if 10 * distance <= abs(wanted):
        return within_10_percent
    return within_20_percent if 5 * distance <= abs(wanted) else wrong


def number(sample: Sample, *, right: float, wrong: float, missing: float) -> float | None:
    """Points for an answer that the verifier calls right or that is the gold's number in any notation, otherwise for
    the first number after the answer tag, in any format; None if the gold is not a number.

    Source: Unsloth's advanced GRPO notebook, check_numbers.
    """
    gold, text = parse(sample.problem.answer), sample.reading.tagged or ""
    if gold is None:
        return None
    if sample.verdict.is_right or parse(text) == gold:
        return right
    guess = first(text)
    if guess is None:
        return missing
    return right if guess == gold else wrong


def number_detected(sample: Sample, *, present: float, absent: float) -> float:
    """`present` if a number follows the answer tag, else `absent`.

    Source: Unsloth's GRPO guide, its arithmetic example: +1 and -1.
    """
    return absent if first(sample.reading.tagged or "") is None else present


def number_matches(sample: Sample, *, right: float, wrong: float) -> float | None:
    """`right` or `wrong`, as the verifier decides; a missing answer is wrong.

    Source: Unsloth's GRPO guide, its arithmetic example: +3 and -3.
    """
    return by_verdict(sample.verdict, right=right, wrong=wrong)


def correctness(sample: Sample, *, right: float) -> float | None:
    """`right` for an answer that the verifier calls right, else 0.

    Source: Will Brown's GRPO demo for GSM8K, correctness_reward_func: 2.
    """
    return by_verdict(sample.verdict, right=right, wrong=0.0)


def is_integer(sample: Sample, *, points: float) -> float:
    """`points` if the text between the answer tags is a whole number in digits, with or without a minus; else 0.

    Source: Will Brown's GRPO demo for GSM8K, int_reward_func: 0.5.
    """
    digits = (sample.reading.tagged or "").strip().removeprefix("-")
    return points if digits.isascii() and digits.isdecimal() else 0.0


def proximity_smooth(sample: Sample, *, top: float, bottom: float, halfway: float, missing: float) -> float | None:
    """bottom + (top − bottom) / (1 + (e / halfway)²) for the relative error e = |x − g| / |g|; e = |x| for a gold of 0.

    This gives `top` at the gold, the mean of both at e = `halfway`, and approaches `bottom`, the penalty for outliers,
    far away. `top` for an answer that the verifier calls right. `missing` without a number. None if the gold is not a
    number. Written for this project: a smooth version of the bands of `answer`.
    """
    gold = parse(sample.problem.answer)
    if gold is None:
        return None
    if sample.verdict.is_right:
        return top
    guess = parse(sample.reading.answer or "")
    if guess is None:
        return missing
    error = min(abs(guess - gold) / (abs(gold) or 1), Fraction(10**9))
    return bottom + (top - bottom) / (1 + (float(error) / halfway) ** 2)


def exact_match(sample: Sample, *, points: float) -> float:
    """`points` if the answer equals the ideal one (the row's solution, or else its gold) up to case, white space,
    quotes around it and punctuation at its end; else 0.

    Source: the e-mail rubric of Unsloth's GRPO guide: +1.
    """
    guess, ideal = sample.reading.answer, sample.problem.solution or sample.problem.answer
    if guess is None or has_many_marks(guess):
        return 0.0
    return points if normalise(guess) == normalise(ideal) else 0.0
