"""Log-probabilities of given tokens under the model's head: one function for GRPO, SFT and evaluation."""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

import os
from typing import Literal, cast

import torch
from torch import Tensor

from rlvr.logprob import reference, rows
from rlvr.logprob.fused import Rows, TokenLogprobs, rows_within
from rlvr.logprob.rows import LogitMap
from rlvr.types import UserError

__all__ = ["PLAIN", "Impl", "LogitMap", "resolve", "token_logprobs"]

PLAIN = LogitMap()  # of most models: the logits as they are
Impl = Literal["auto", "torch", "triton", "reference"]


def token_logprobs(
    hidden_TD: Tensor,
    head_VD: Tensor,
    target_T: Tensor,
    *,
    temperature: float,
    logit_map: LogitMap = PLAIN,
    entropy_gradient: bool = False,
    impl: Impl = "auto",
    chunk_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, at `temperature`.

    With logits x = h·Wᵀ and y what `logit_map`, the model's soft-cap and scale, makes of them at `temperature`:
    logp = log_softmax(y)[target], H = −Σ p·log p; both [T], at least float32 (float64 in, float64 out).
    Differentiable in logp with respect to `hidden_TD` and `head_VD`; the entropy carries a gradient,
    dH/dy = −p·(log p + H), only with `entropy_gradient`: without, less is computed and kept.

    `impl` torch and triton make the logits of `chunk_rows` tokens at a time (None: of what CHUNK_BYTES holds) and keep
    no [T, V] tensor; auto is triton on CUDA and torch elsewhere; reference is the definition. Raises UserError where
    triton cannot run.
    """
    if (impl := resolve(impl, hidden_TD)) == "reference":
        return reference.token_logprobs(
            hidden_TD,
            head_VD,
            target_T,
            logit_map=logit_map.at(temperature),
            entropy_gradient=entropy_gradient,
        )
    logp_T, entropy_T = TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_TD,
        head_VD,
        target_T,
        row_arithmetic(impl),
        logit_map.at(temperature),
        chunk_rows or rows_within(len(head_VD), hidden_TD.device),
        entropy_gradient,
        torch.is_grad_enabled(),
    )
    return logp_T, entropy_T


def resolve(impl: Impl, hidden_TD: Tensor) -> Literal["torch", "triton", "reference"]:
    """The implementation for these hidden states. Raises UserError where triton cannot run."""
    device, is_double = hidden_TD.device.type, hidden_TD.dtype == torch.float64
    if impl == "auto":
        return "triton" if device == "cuda" and not is_double else "torch"
    if impl == "triton" and device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(f"triton kernels need an NVIDIA GPU, and the model is on {device}: use auto or torch")
    if impl == "triton" and is_double:
        raise UserError("triton kernels compute in float32, and the hidden states are float64: use auto or torch")
    return impl


def row_arithmetic(impl: Literal["torch", "triton"]) -> Rows:
    if impl == "torch":
        return cast(Rows, rows)
    from rlvr.logprob import kernel  # noqa: PLC0415

    return cast(Rows, kernel)
