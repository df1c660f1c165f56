"""Reward functions: a completion and its problem in, points out.

The first four are the rewards of Unsloth's advanced GRPO notebook (format exactly, format approximately,
answer with proximity bands, number extracted), in the form that docs/decisions/0003 fixes. A function returns None
where it does not apply to the problem, and NaN where it could not judge by a fault that is not the completion's.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable

from rlvr.chat import NUMBER, Tags, extract_answer, extract_tagged, to_number
from rlvr.types import Completion, Problem

RewardFunction = Callable[..., float | None]


def format_exact(completion: Completion, problem: Problem, tags: Tags, *, points: float) -> float:
    """`points` for a well-formed completion, else 0."""
    return points if extract_answer(completion.text, tags) is not None else 0.0


def format_approximate(completion: Completion, problem: Problem, tags: Tags, *, present: float, absent: float) -> float:
    """For each of the four tags: `present` if it occurs exactly once, else `absent`."""
    return sum(present if completion.text.count(mark) == 1 else absent for mark in tags.marks())


def answer(
    completion: Completion,
    problem: Problem,
    tags: Tags,
    *,
    exact: float,
    stripped: float,
    within_10_percent: float,
    within_20_percent: float,
    wrong: float,
    not_a_number: float,
    missing: float,
) -> float:
    """Points for the answer of a well-formed completion, fewer the further it is from the gold."""
    guess = extract_answer(completion.text, tags)
    if guess is None:
        return missing
    if guess == problem.answer:
        return exact
    if guess.strip() == problem.answer.strip():
        return stripped
    number, gold = to_number(guess), to_number(problem.answer)
    if number is None or gold is None:
        return not_a_number
    if number == gold:
        return stripped
    distance = abs(number - gold) / abs(gold) if gold else float("inf")
    if distance <= 0.1:
        return within_10_percent
    return within_20_percent if distance <= 0.2 else wrong


def number(
    completion: Completion, problem: Problem, tags: Tags, *, right: float, wrong: float, missing: float
) -> float:
    """Points for the first number after the answer tag, whatever the rest of the format."""
    tagged = extract_tagged(completion.text, tags)
    found = NUMBER.search(tagged) if tagged is not None else None
    if found is None:
        return missing
    return right if to_number(found.group()) == to_number(problem.answer) else wrong


def random(completion: Completion, problem: Problem, tags: Tags, *, low: float, high: float) -> float:
    """A control: a number between `low` and `high` that depends on question and text, not on right or wrong."""
    digest = hashlib.sha256(f"{problem.id}\n{completion.text}".encode("utf-8", "surrogatepass")).digest()
    return low + (high - low) * int.from_bytes(digest[:8], "big") / 2**64


def soft_overlong(
    completion: Completion, problem: Problem, tags: Tags, *, max_tokens: float, cache_tokens: float
) -> float:
    """Soft overlong punishment (DAPO, arXiv 2503.14476, eq. 13), for completions of n tokens, L = max_tokens:

    0 up to L − cache_tokens, then (L − cache_tokens − n)/cache_tokens, which is −1 at L, and −1 beyond.
    """
    beyond = len(completion.token_ids) - (max_tokens - cache_tokens)
    if beyond <= 0:
        return 0.0
    return -1.0 if beyond >= cache_tokens else -beyond / cache_tokens


FUNCTIONS: dict[str, RewardFunction] = {
    function.__name__: function
    for function in (format_exact, format_approximate, answer, number, random, soft_overlong)
}


def check_options(name: str, options: dict[str, float], *, max_completion_tokens: int) -> None:
    """Raise ValueError unless `options` are exactly those of reward function `name`, with values that make sense."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    expected = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    if set(options) != expected:
        raise ValueError(
            f"rewards.{name}.options must be exactly {', '.join(sorted(expected))}; "
            f"missing: {', '.join(sorted(expected - set(options))) or 'none'}; "
            f"unknown: {', '.join(sorted(set(options) - expected)) or 'none'}"
        )
    if name == "soft_overlong":
        longest, cache = options["max_tokens"], options["cache_tokens"]
        if not 0 <= cache <= longest:
            raise ValueError(
                f"rewards.{name}.options: cache_tokens {cache:g} must be from 0 to max_tokens {longest:g}: "
                "the penalty begins that many tokens before max_tokens"
            )
        if longest > max_completion_tokens:
            raise ValueError(
                f"rewards.{name}.options: max_tokens {longest:g} is above rollout.max_completion_tokens "
                f"{max_completion_tokens}, where completions end: the whole penalty could never be reached; lower it"
            )
