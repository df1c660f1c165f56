"""Log-probabilities of given tokens under the model's head: one function for GRPO, SFT and evaluation."""

from rlvr.logprob.reference import token_logprobs

__all__ = ["token_logprobs"]
