"""Attention over flat tokens: packed rows, shared prompts, and the kernels under them."""

from rlvr.attention.layout import Layout, PackedLayout

__all__ = ["Layout", "PackedLayout"]
