"""The policy loss of GRPO and its relatives."""

from rlvr.loss.correction import sampler_correction
from rlvr.loss.policy import LossStats, policy_loss
from rlvr.loss.reference import token_loss

__all__ = ["LossStats", "policy_loss", "sampler_correction", "token_loss"]
