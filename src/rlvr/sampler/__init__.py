"""Rollout engines: prompts in, groups of sampled completions out."""

from rlvr.sampler.native import NativeSampler
from rlvr.sampler.protocol import Sampler, Sampling

__all__ = ["NativeSampler", "Sampler", "Sampling"]
