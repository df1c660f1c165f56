"""rlvr: turn an open language model into a reasoning model with GRPO on one machine."""

__version__ = "0.2.0"
