"""Scores of groups: one column of points per function, and the strict verdict beside them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rlvr.advantage import total_rewards
from rlvr.chat import TAGS, render_target
from rlvr.config import Config
from rlvr.rewards import score
from rlvr.tasks.arithmetic import problem
from rlvr.types import Completion, Group, Prompt

TAGS_USED = TAGS["working_out"]


def group(a: int, b: int, texts: list[str]) -> Group:
    completions = (Completion(torch.tensor([1]), torch.zeros(1), text, False) for text in texts)
    return Group(Prompt(problem(a, b, 2), (1,)), tuple(completions))


def test_points_weights_and_verdicts(make_config: Callable[..., Config]) -> None:
    right = render_target(problem(47, 38, 2), TAGS_USED)
    near, far = right.replace(">85<", ">80<"), right.replace(">85<", ">12<")
    groups = [group(47, 38, [right, near]), group(20, 60, [far, "80"])]
    cfg = make_config({"rewards.format_exact.weight": 0.0, "rewards.number.weight": -2.0})
    scores = score(groups, cfg.rewards, TAGS_USED)
    assert scores.names == ("format_exact", "format_approximate", "answer", "number")
    assert scores.weights == (0.0, 1.0, 1.0, -2.0)
    assert scores.points == [
        [[3.0, 2.0, 5.0, 3.5], [3.0, 2.0, 2.0, -1.5]],
        [[3.0, 2.0, -2.5, -1.5], [0.0, -4.0, -2.0, 0.0]],
    ]
    assert scores.correct == [[True, False], [False, False]]
    reward_PG = total_rewards(torch.tensor(scores.points, dtype=torch.float64), scores.weights)
    assert reward_PG.tolist() == [[2 + 5 - 7, 2 + 2 + 3], [2 - 2.5 + 3, -4 - 2]]


def test_the_verdict_does_not_depend_on_the_rewards(make_config: Callable[..., Config]) -> None:
    right = render_target(problem(47, 38, 2), TAGS_USED)
    random = {"random": {"weight": 1.0, "options": {"low": 0.0, "high": 1.0}}}
    scores = score([group(47, 38, [right, right + "."])], make_config({"rewards": random}).rewards, TAGS_USED)
    assert scores.names == ("random",)
    assert scores.correct == [[True, False]]
