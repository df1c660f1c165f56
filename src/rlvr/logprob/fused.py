"""Log-probabilities chunk by chunk: the logits of a few rows at a time, and none kept."""
# T trained tokens · C rows of a chunk · D hidden · V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlvr.linear import linear
from rlvr.logprob.rows import LogitMap

CHUNK_BYTES = {
    "cuda": 1 << 28,
    "cpu": 1 << 25,
}  # of logits in float32; on a CPU the allocator reuses what is that small
CONVERTED_ROWS = 4096  # of a 16-bit head at a time, on a CPU
HALF = (torch.bfloat16, torch.float16)


class Rows(Protocol):
    """The arithmetic on rows of logits: rows.py, or kernel.py."""

    def statistics(
        self, logits_CV: Tensor, target_C: Tensor, logit_map: LogitMap, *, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor, Any]: ...

    def gradient(
        self,
        state: Any,
        target_C: Tensor,
        dlogp_C: Tensor,
        dentropy_C: Tensor | None,
        logit_map: LogitMap,
        dtype: torch.dtype,
    ) -> Tensor: ...


class TokenLogprobs(torch.autograd.Function):
    """[T, D], [V, D], [T] → log-probabilities and entropies, [T].

    With a frozen head and no gradient of the entropy, ∂logp/∂h is computed at once and only scaled in the backward
    pass. Else the backward pass makes the logits again, those of the last chunk excepted.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        target_T: Tensor,
        rows: Rows,
        logit_map: LogitMap,
        chunk_rows: int,
        entropy_gradient: bool,
        has_graph: bool,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_head = (has_graph and needed for needed in ctx.needs_input_grad[:2])
        at_once = needs_hidden and not needs_head and not entropy_gradient
        logp_T, entropy_T = (hidden_TD.new_empty(len(hidden_TD), dtype=sum_dtype(hidden_TD)) for _ in range(2))
        unit_TD = torch.empty_like(hidden_TD) if at_once else None
        state = None
        for part in chunks(len(hidden_TD), chunk_rows):
            state = None  # frees the chunk before
            logp_T[part], entropy_T[part], state = rows.statistics(
                logits(hidden_TD[part], head_VD), target_T[part], logit_map, entropy_gradient=entropy_gradient
            )
            if unit_TD is not None:
                one_C = torch.ones_like(logp_T[part])
                dlogits_CV = rows.gradient(state, target_T[part], one_C, None, logit_map, hidden_TD.dtype)
                unit_TD[part] = hidden_gradient(dlogits_CV, head_VD)
        ctx.rows, ctx.logit_map, ctx.chunk_rows, ctx.entropy_gradient = rows, logit_map, chunk_rows, entropy_gradient
        ctx.last = state if (needs_hidden or needs_head) and not at_once else None
        if unit_TD is not None:
            ctx.save_for_backward(unit_TD)
        elif needs_hidden or needs_head:
            ctx.save_for_backward(hidden_TD, head_VD, target_T)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_T)
        return logp_T, entropy_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogp_T: Tensor, dentropy_T: Tensor) -> tuple[Tensor | None, ...]:
        if len(ctx.saved_tensors) == 1:
            (unit_TD,) = ctx.saved_tensors
            return (unit_TD * dlogp_T[:, None]).to(unit_TD.dtype), *(None,) * 7
        hidden_TD, head_VD, target_T = ctx.saved_tensors
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        gradients = Gradients(hidden_TD, head_VD, needs_hidden=needs_hidden, needs_head=needs_head)
        state, ctx.last = ctx.last, None
        for part in reversed(list(chunks(len(hidden_TD), ctx.chunk_rows))):
            if state is None:
                state = ctx.rows.statistics(
                    logits(hidden_TD[part], head_VD),
                    target_T[part],
                    ctx.logit_map,
                    entropy_gradient=ctx.entropy_gradient,
                )[2]
            dentropy_C = dentropy_T[part] if ctx.entropy_gradient else None
            gradients.add(
                part,
                ctx.rows.gradient(state, target_T[part], dlogp_T[part], dentropy_C, ctx.logit_map, hidden_TD.dtype),
            )
            state = None
        dhead_VD = gradients.head()
        return gradients.dhidden_TD, None if dhead_VD is None else dhead_VD.to(head_VD.dtype), *(None,) * 6


class Gradients:
    """dH and, where the head is trained, dW, from the gradient of the logits chunk by chunk. dW adds up in float32."""

    def __init__(self, hidden_TD: Tensor, head_VD: Tensor, *, needs_hidden: bool, needs_head: bool) -> None:
        self.hidden_TD, self.head_VD, self.needs_head = hidden_TD, head_VD, needs_head
        self.dhidden_TD = torch.zeros_like(hidden_TD) if needs_hidden else None
        self.dhead_VD: Tensor | None = None

    def add(self, part: slice, dlogits_CV: Tensor) -> None:
        if self.dhidden_TD is not None:
            self.dhidden_TD[part] = hidden_gradient(dlogits_CV, self.head_VD)
        if self.needs_head:
            share_VD = product(dlogits_CV.T, self.hidden_TD[part].T)
            self.dhead_VD = share_VD if self.dhead_VD is None else self.dhead_VD.add_(share_VD)

    def head(self) -> Tensor | None:
        """dW, not yet rounded to the head's type; None for a frozen head."""
        if not self.needs_head:
            return None
        return torch.zeros_like(self.head_VD) if self.dhead_VD is None else self.dhead_VD


def chunks(num_tokens: int, chunk_rows: int) -> Iterator[slice]:
    """Slices of at most `chunk_rows` tokens."""
    for start in range(0, num_tokens, chunk_rows):
        yield slice(start, min(start + chunk_rows, num_tokens))


def rows_within(vocabulary: int, device: torch.device) -> int:
    """How many rows of logits make a chunk by default."""
    return max(1, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"]) // (4 * vocabulary))


def logits(hidden_CD: Tensor, head_VD: Tensor) -> Tensor:
    """h·Wᵀ in at least float32, not rounded to 16 bits on the way, as a new tensor. [C, V]"""
    if hidden_CD.device.type != "cpu" or hidden_CD.dtype not in HALF:
        return product(hidden_CD, head_VD)
    logits_CV = hidden_CD.new_empty(len(hidden_CD), len(head_VD), dtype=torch.float32)
    for part in chunks(len(head_VD), CONVERTED_ROWS):  # a CPU has no such product of 16-bit matrices
        logits_CV[:, part] = linear(hidden_CD.float(), head_VD[part].float())
    return logits_CV


def hidden_gradient(dlogits_CV: Tensor, head_VD: Tensor) -> Tensor:
    """dlogits·W, summed in float32. [C, D]"""
    if len(dlogits_CV) == 1 and dlogits_CV.device.type == "cpu":
        # one row alone is summed over the vocabulary in a single run on some processors, and 15 times less exactly
        return product(dlogits_CV.expand(2, -1), head_VD.T)[:1]
    return product(dlogits_CV, head_VD.T)


def product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """a·bᵀ in at least float32, [M, N]. 16-bit products come out of CUDA unrounded, on a CPU rounded once."""
    if a_MK.device.type == "cuda" and a_MK.dtype in HALF:
        return torch.mm(a_MK, b_NK.T, out_dtype=torch.float32)
    result = linear(a_MK, b_NK)
    return result if result.dtype == torch.float64 else result.float()


def sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
