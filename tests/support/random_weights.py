"""Random weights for tests, the same each time."""

from __future__ import annotations

from typing import Any

import torch


def randomize(model: Any) -> None:
    """Every trainable weight from a normal distribution; norms around 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
                weight.copy_(1 + 0.2 * noise if "norm" in name else 0.12 * noise)
