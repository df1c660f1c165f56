"""Held-out evaluation: greedy and sampled answers, judged strictly and leniently, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rlvr.chat import Tags, extract_answer, extract_tagged, last_number
from rlvr.types import Group, UserError

if TYPE_CHECKING:
    from rlvr.verifiers.verify import Verify

Z95 = 1.959963984540054


def evaluation_table(greedy: Sequence[Group], sampled: Sequence[Group], tags: Tags, verify: Verify) -> pd.DataFrame:
    """One row per problem: the greedy answer with its verdicts, and how many of the k sampled ones are right.

    Raises UserError if an answer could not be verified because its verifier failed.
    """
    strict, lenient, samples = (
        _right(verify, groups, read)
        for groups, read in (
            (greedy, lambda text: extract_answer(text, tags)),
            (greedy, lambda text: _anywhere(text, tags)),
            (sampled, lambda text: extract_answer(text, tags)),
        )
    )
    rows = []
    for p, (single, many) in enumerate(zip(greedy, sampled, strict=True)):
        problem, completion, verdicts = single.prompt.problem, single.completions[0], samples[p]
        rows.append(
            {
                "id": problem.id,
                "question": problem.question,
                "answer": problem.answer,
                "level": problem.level,
                "text": completion.text,
                "correct": strict[p][0],
                "correct_lenient": lenient[p][0],
                "has_format": extract_answer(completion.text, tags) is not None,
                "num_tokens": len(completion.token_ids),
                "is_truncated": completion.is_truncated,
                "num_samples": len(verdicts),
                "num_correct": sum(verdicts),
                "sample_texts": [c.text for c in many.completions],
                "sample_correct": verdicts,
                "sample_num_tokens": [len(c.token_ids) for c in many.completions],
            }
        )
    return pd.DataFrame(rows)


def _right(verify: Verify, groups: Sequence[Group], read: Callable[[str], str | None]) -> list[list[bool]]:
    """Whether each completion, read by `read`, is right. [P][G]"""
    pairs = [(read(c.text), group.prompt.problem.answer) for group in groups for c in group.completions]
    verdicts = verify(pairs)
    if faults := [verdict for verdict in verdicts if verdict.is_fault]:
        raise UserError(
            f"{len(faults)} of {len(verdicts)} answers could not be verified because the verifier failed: "
            f"{faults[0].cause}: {faults[0].message}"
        )
    right = iter(verdict.is_right for verdict in verdicts)
    return [[next(right) for _ in group.completions] for group in groups]


def _anywhere(text: str, tags: Tags) -> str | None:
    """The lenient reading: what follows the answer tag in a completion of any shape, else its last number."""
    tagged = extract_tagged(text, tags)
    return last_number(text) if tagged is None else tagged


def summary(table: pd.DataFrame, *, resamples: int, seed: int) -> dict[str, Any]:
    """The numbers of metrics/evaluate.json for one model. `accuracy` is greedy and strict."""
    right = table["num_correct"].to_numpy()
    samples = int(table["num_samples"].iloc[0])
    share = right / samples
    low, high = wilson(int(table["correct"].sum()), len(table))
    sure = bootstrap(share, resamples=resamples, seed=seed)
    return {
        "accuracy": float(table["correct"].mean()),
        "accuracy_lenient": float(table["correct_lenient"].mean()),
        "accuracy_ci95": [low, high],
        "mean_at_k": float(share.mean()),
        "mean_at_k_ci95": list(sure),
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


def bootstrap(values: np.ndarray[Any, Any], *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean, resampling problems."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(values, len(values)).mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


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
