"""Held-out evaluation: greedy and sampled answers, judged strictly and leniently, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rlvr.chat import Tags, extract_answer, extract_tagged, last_number
from rlvr.types import Group, Problem, UserError

if TYPE_CHECKING:
    from rlvr.verifiers.verify import Verify

Z95 = 1.959963984540054


def answers_table(greedy: Sequence[Group], sampled: Sequence[Group]) -> pd.DataFrame:
    """One row per problem: the greedy answer and the k sampled ones, without verdicts."""
    rows = []
    for single, many in zip(greedy, sampled, strict=True):
        problem, completion = single.prompt.problem, single.completions[0]
        rows.append(
            {
                "id": problem.id,
                "question": problem.question,
                "answer": problem.answer,
                "level": problem.level,
                "text": completion.text,
                "num_tokens": len(completion.token_ids),
                "is_truncated": completion.is_truncated,
                "num_samples": len(many.completions),
                "sample_texts": [c.text for c in many.completions],
                "sample_num_tokens": [len(c.token_ids) for c in many.completions],
            }
        )
    return pd.DataFrame(rows)


def judged(answers: pd.DataFrame, problems: Sequence[Problem], tags: Tags, verify: Verify) -> pd.DataFrame:
    """The table of `answers` to `problems` with verdicts: of the greedy answers, and how many sampled ones are right.

    Raises UserError if an answer could not be verified because its verifier failed.
    """
    texts, samples = [[text] for text in answers["text"]], list(answers["sample_texts"])

    def right(rows: list[list[str]], read: Callable[[str, Tags], str | None]) -> list[list[bool]]:
        return _right(verify, [[read(text, tags) for text in row] for row in rows], problems)

    strict, lenient, sampled = right(texts, extract_answer), right(texts, _anywhere), right(samples, extract_answer)
    verdicts: dict[str, list[Any]] = {
        "correct": [row[0] for row in strict],
        "correct_lenient": [row[0] for row in lenient],
        "has_format": [extract_answer(text, tags) is not None for text in answers["text"]],
        "num_correct": [sum(row) for row in sampled],
        "sample_correct": sampled,
    }
    return answers.assign(**verdicts)


def _right(verify: Verify, answers: Sequence[Sequence[str | None]], problems: Sequence[Problem]) -> list[list[bool]]:
    """Whether each answer to each problem is right. [P][G]"""
    pairs = [(answer, problem) for row, problem in zip(answers, problems, strict=True) for answer in row]
    verdicts = verify(pairs)
    if faults := [verdict for verdict in verdicts if verdict.is_fault]:
        raise UserError(
            f"{len(faults)} of {len(verdicts)} answers could not be verified because the verifier failed: "
            f"{faults[0].cause}: {faults[0].message}"
        )
    right = iter(verdict.is_right for verdict in verdicts)
    return [[next(right) for _ in row] for row in answers]


def _anywhere(text: str, tags: Tags) -> str | None:
    """The lenient reading: what follows the answer tag in a completion of any shape, else its last number."""
    tagged = extract_tagged(text, tags)
    return last_number(text) if tagged is None else tagged


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """The numbers of metrics/evaluate.json for one model. `accuracy` is greedy and strict."""
    right = table["num_correct"].to_numpy()
    samples = int(table["num_samples"].iloc[0])
    share = right / samples
    low, high = wilson(int(table["correct"].sum()), len(table))
    return {
        "accuracy": float(table["correct"].mean()),
        "accuracy_lenient": float(table["correct_lenient"].mean()),
        "accuracy_ci95": [low, high],
        "mean_at_k": float(share.mean()),
        "mean_at_k_ci95": list(share_interval(share)),
        "pass_at_k": pass_at(right, samples, samples),
        "pass_at": {str(k): pass_at(right, samples, k) for k in powers_of_two(samples)},
        "k": samples,
        "format_rate": float(table["has_format"].mean()),
        "mean_tokens": float(table["num_tokens"].mean()),
        "truncated": float(table["is_truncated"].mean()),
        "count": len(table),
    }


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): holds near 0 and 1, where the normal interval does not."""
    p, z2 = successes / count, Z95**2
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def share_interval(share_N: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % interval of a mean of shares from 0 to 1, one for each problem, whose samples are not independent.

    x̃ ± z·s̃/√(N + z²), with mean x̃ and variance s̃² of the shares and of z²/2 added problems each with all and with no
    sample right. For one sample a problem it is the interval of Agresti and Coull (1998). It has a width at 0 and 1,
    where a bootstrap has none.
    """
    low, high = _interval_with_added(share_N, {0.0: Z95**2 / 2, 1.0: Z95**2 / 2})
    return max(0.0, low), min(1.0, high)


def change_interval(change_N: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % interval of a mean of paired changes from −1 to 1, one for each problem.

    As share_interval, with half an added problem each that rises and falls by 1, and one that stays: the interval of
    Agresti and Min (2005) for matched pairs.
    """
    return _interval_with_added(change_N, {-1.0: 0.5, 0.0: 1.0, 1.0: 0.5})


def _interval_with_added(values_N: np.ndarray[Any, Any], added: dict[float, float]) -> tuple[float, float]:
    """The normal interval of the mean of the values and of `added` ones: a weight for each value."""
    value = np.concatenate([values_N, list(added)])
    weight = np.concatenate([np.ones(len(values_N)), list(added.values())])
    mean = float(np.average(value, weights=weight))
    half = Z95 * math.sqrt(float(np.average((value - mean) ** 2, weights=weight)) / float(weight.sum()))
    return mean - half, mean + half


def bootstrap_difference(
    before: np.ndarray[Any, Any], after: np.ndarray[Any, Any], *, resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of mean(after) − mean(before), two samples that are resampled by themselves."""
    rng = np.random.default_rng(seed)
    differences = [
        rng.choice(after, len(after)).mean() - rng.choice(before, len(before)).mean() for _ in range(resamples)
    ]
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def pass_at(right: np.ndarray[Any, Any], samples: int, k: int) -> float:
    """Unbiased chance that one of k samples is right, 1 − C(n−c, k)/C(n, k) (Chen et al. 2021, 2107.03374)."""
    ways = math.comb(samples, k)
    return float(np.mean([1.0 - math.comb(samples - int(c), k) / ways for c in right]))


def powers_of_two(limit: int) -> list[int]:
    return [2**i for i in range(limit.bit_length()) if 2**i <= limit]
