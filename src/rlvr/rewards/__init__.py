"""Rewards: named functions from completions to points, weighted in params.yaml."""

from rlvr.rewards.functions import FUNCTIONS
from rlvr.rewards.rubric import Scorer, Scores, check_columns, open_scorer

__all__ = ["FUNCTIONS", "Scorer", "Scores", "check_columns", "open_scorer"]
