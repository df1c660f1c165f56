"""Rewards: named functions from completions to points, weighted in params.yaml."""

from rlvr.rewards.functions import FUNCTIONS, check_options
from rlvr.rewards.rubric import Scores, score

__all__ = ["FUNCTIONS", "Scores", "check_options", "score"]
