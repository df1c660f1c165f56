"""Rewards: named functions from completions to points, weighted in params.yaml."""

from rlvr.rewards.functions import FUNCTIONS
from rlvr.rewards.rubric import Scorer, Scores, open_scorer

__all__ = ["FUNCTIONS", "Scorer", "Scores", "open_scorer"]
