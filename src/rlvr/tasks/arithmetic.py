"""Generated additions with worked steps. Level n adds two numbers of n digits.

The working starts at the ones column, with the carry as third addend:
47+38 is worked as 7+8+0=15;4+3+1=8.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from rlvr.tasks.pools import Pools, check_distinct
from rlvr.types import Problem, UserError

if TYPE_CHECKING:
    from rlvr.config import Prepare


def working(a: int, b: int) -> str:
    """The column sums of a + b, ones first."""
    digits_a, digits_b = str(a)[::-1], str(b)[::-1]
    steps, carry = [], 0
    for i in range(max(len(digits_a), len(digits_b))):
        x, y = int(digits_a[i : i + 1] or 0), int(digits_b[i : i + 1] or 0)
        steps.append(f"{x}+{y}+{carry}={x + y + carry}")
        carry = (x + y + carry) // 10
    return ";".join(steps)


def problem(a: int, b: int, level: int) -> Problem:
    return Problem(id=f"{a}+{b}", question=f"What is {a}+{b}?", answer=str(a + b), working=working(a, b), level=level)


def load(prepare: Prepare, seed: int) -> Pools:
    """The number of different sums that the splits need, levels mixed evenly. Raises UserError if there are too few."""
    assert prepare.train_problems is not None  # the configuration refuses null here
    count = sum((prepare.train_problems, prepare.sft_problems, prepare.dev_problems, prepare.evaluation_problems))
    count += prepare.few_shot
    levels = range(prepare.arithmetic.min_level, prepare.arithmetic.max_level + 1)
    rng = random.Random(f"arithmetic {seed}")
    needed = -(-count // len(levels))
    problems: list[Problem] = []
    for level in levels:
        low, high = 10 ** (level - 1), 10**level
        available = (high - low) ** 2
        if available < needed:
            raise UserError(
                f"prepare: level {level} has {available} sums, but {count} problems over {len(levels)} level(s) need "
                f"{needed}: ask for fewer problems or raise prepare.arithmetic.min_level"
            )
        picks = rng.sample(range(available), needed)
        problems += [problem(low + pick // (high - low), low + pick % (high - low), level) for pick in picks]
    rng.shuffle(problems)
    check_distinct(problems)
    return Pools(problems, None, {"warnings": []})
