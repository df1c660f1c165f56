"""Rollout engines: prompts in, groups of sampled completions out."""

from rlvr.sampler.completions import places
from rlvr.sampler.engine import EngineSettings, start_engine
from rlvr.sampler.native import NativeSampler
from rlvr.sampler.protocol import Sampler, Sampling
from rlvr.sampler.vllm import VllmSampler

__all__ = ["EngineSettings", "NativeSampler", "Sampler", "Sampling", "VllmSampler", "places", "start_engine"]
