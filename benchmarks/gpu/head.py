"""The head and the policy loss: milliseconds, peak bytes and error against float64, ours compared with others'.

    python benchmarks/gpu/head.py          # on an NVIDIA card, a minute: 20,480 tokens × 4096 × 128,256

Beside ours stand the naive way, TRL's (its function where TRL is installed, else its formula) and Liger's fused loss
(where it is installed). The head is frozen. Needs torch and triton.
"""
# T trained tokens · D hidden · V vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import rivals
from figures import Bench, attempt, begin, gib, largest, milliseconds, peak
from rlvr.logprob import token_logprobs
from rlvr.loss import policy_loss
from rlvr.types import LossSpec, Totals


@dataclass(frozen=True)
class Sizes:
    tokens: int
    width: int
    vocabulary: int
    chunks: tuple[int, ...]
    rounds: int


FULL, TINY = Sizes(20_480, 4096, 128_256, (256, 512, 1024, 2048), 5), Sizes(64, 32, 1000, (16, 32), 2)
CHECKED = 256  # tokens whose truth in float64 is computed
LOGP_ERROR, ENTROPY_ERROR = 1e-5, 2e-5  # nats, of float32
GRADIENT_ERROR = {torch.float32: 5e-6, torch.bfloat16: 4e-3}  # relative
SPEC = LossSpec(
    loss_type="dapo", epsilon=0.2, epsilon_high=0.28, delta=None, beta=0.0, kl_unbiased=True,
    importance_correction="off", importance_min=None, importance_max=3.0, entropy_bonus=0.0,
    max_completion_tokens=4096, temperature=1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    hidden_TD: Tensor
    head_VD: Tensor
    micro: Any  # the fields of a MicroBatch that the loss reads


def make_inputs(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Logits of standard deviation 3, as of a trained model; eight completions whose policy has moved a little."""
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=device)
    hidden = draw(sizes.tokens, sizes.width).to(dtype)
    head = (draw(sizes.vocabulary, sizes.width) * (3 / sizes.width**0.5)).to(dtype)
    target = torch.randint(sizes.vocabulary, (sizes.tokens,), generator=generator, device=device)
    row_T = torch.arange(sizes.tokens, device=device) * rivals.ROWS // sizes.tokens
    with torch.no_grad():
        logp, _ = token_logprobs(hidden, head, target, temperature=1.0)
    old = logp + 0.2 * draw(sizes.tokens)
    micro = SimpleNamespace(
        target_T=target, row_T=row_T, advantage_T=draw(rivals.ROWS)[row_T], old_logp_T=old, sampler_logp_T=old,
        reference_logp_T=None,
    )  # fmt: skip
    return Inputs(hidden, head, micro)


def head_step(inputs: Inputs, way: rivals.Head) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies, and the gradient of −Σ logp by the hidden states."""
    leaf = inputs.hidden_TD.detach().requires_grad_()
    logp, entropy = way(leaf, inputs.head_VD, inputs.micro.target_T)
    (gradient,) = torch.autograd.grad(-logp.sum(), leaf)
    return logp.detach(), entropy.detach(), gradient


def loss_step(inputs: Inputs, loss_of: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient by the hidden states."""
    leaf = inputs.hidden_TD.detach().requires_grad_()
    loss = loss_of(leaf, inputs.head_VD)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def head_errors(found: tuple[Tensor, ...], inputs: Inputs) -> dict[str, float]:
    """Of the first tokens, against float64: largest distance of log-probability and entropy, relative of dH."""
    first = slice(None, CHECKED)
    micro = SimpleNamespace(target_T=inputs.micro.target_T[first])
    truth = head_step(Inputs(inputs.hidden_TD[first].double(), inputs.head_VD.double(), micro), float64_head)
    logp, entropy, gradient = (x[first].double() for x in found)
    return {
        "logp_error": (logp - truth[0]).abs().max().item(),
        "entropy_error": (entropy - truth[1]).abs().max().item(),
        "gradient_error": ((gradient - truth[2]).norm() / truth[2].norm()).item(),
    }


def float64_head(hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor]:
    logp_TV = (hidden_TD @ head_VD.T).log_softmax(-1)
    entropy_T = -(logp_TV.detach().exp() * logp_TV.detach()).sum(-1)
    return logp_TV.gather(1, target_T[:, None])[:, 0], entropy_T


def head_ways(bench: Bench, sizes: Sizes, dtype: torch.dtype) -> dict[str, rivals.Head]:
    """Ours in each chunk and kind, and the others; in float32, which is slow, ours alone."""

    def ours(kind: Any, rows: int) -> rivals.Head:
        return partial(token_logprobs, temperature=1.0, impl=kind, chunk_rows=rows)

    kinds = ["triton", "torch"] if bench.is_cuda else ["torch"]
    middle = sizes.chunks[len(sizes.chunks) // 2]
    if dtype == torch.float32:
        return {f"ours, {kinds[0]}, {middle} rows": ours(kinds[0], middle)}
    ways = {f"ours, {kinds[0]}, {rows} rows": ours(kinds[0], rows) for rows in sizes.chunks}
    ways |= {f"ours, {kind}, {middle} rows": ours(kind, middle) for kind in kinds[1:]}
    name, theirs = rivals.trl()
    return ways | {"naive": rivals.naive, name: theirs}


def loss_ways(bench: Bench, sizes: Sizes, inputs: Inputs) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The dapo loss from hidden states, ours and Liger's; and gspo's, which needs two passes over the head."""
    micro, totals = inputs.micro, Totals(rows=rivals.ROWS, tokens=sizes.tokens)
    middle = sizes.chunks[len(sizes.chunks) // 2]

    def ours(hidden: Tensor, head: Tensor, spec: LossSpec, impl: Any = "auto") -> Tensor:
        return policy_loss(hidden, head, micro, totals=totals, spec=spec, impl=impl, chunk_rows=middle)[0]

    def liger(hidden: Tensor, head: Tensor) -> Tensor:
        how = {"compiled": bench.is_cuda}
        return rivals.liger(micro.target_T, micro.advantage_T, micro.old_logp_T, **how)(hidden, head)

    gspo = LossSpec(**vars(SPEC) | {"loss_type": "gspo"})
    return {
        f"dapo, ours, {middle} rows": partial(ours, spec=SPEC),
        f"gspo, ours, {middle} rows": partial(ours, spec=gspo),
        "dapo, all logits at once": partial(ours, spec=SPEC, impl="reference"),
        "dapo, Liger": liger,
    }


def measure(bench: Bench, sizes: Sizes, dtype: torch.dtype) -> list[dict[str, Any]]:
    """The figures of every way to compute the head; those of the loss are only written."""
    inputs = make_inputs(sizes, bench.device, dtype)
    resident = (inputs.hidden_TD, inputs.head_VD, *(x for x in vars(inputs.micro).values() if x is not None))

    def figures(work: Callable[[], Any]) -> dict[str, Any]:
        spent = milliseconds(work, bench.device, rounds=sizes.rounds if dtype == torch.bfloat16 else 1)
        return {"milliseconds": spent} | peak(work, bench.device, resident)

    def of_head(work: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> dict[str, Any]:
        return figures(work) | head_errors(work(), inputs)

    def of_loss(work: Callable[[], tuple[Tensor, Tensor]]) -> dict[str, Any]:
        return figures(work) | {"loss": work()[0].item()}

    lines = []
    for name, way in head_ways(bench, sizes, dtype).items():
        lines.append(
            attempt(bench, f"head, {name}", partial(of_head, partial(head_step, inputs, way)), dtype=str(dtype))
        )
    if dtype == torch.bfloat16:
        for name, loss_of in loss_ways(bench, sizes, inputs).items():
            attempt(bench, f"loss, {name}", partial(of_loss, partial(loss_step, inputs, loss_of)), dtype=str(dtype))
    return lines


def summary(bench: Bench, sizes: Sizes, lines: Sequence[dict[str, Any]]) -> None:
    """Time and peak of ours, in the second largest chunk, and of the others."""
    middle = f"{sizes.chunks[len(sizes.chunks) // 2]} rows"
    for line in lines:
        if "failed" not in line and ("ours" not in line["what"] or line["what"].endswith(middle)):
            bench.judge(f"{line['what']}, time", line["milliseconds"], "ms")
            bench.judge(f"{line['what']}, peak", gib(line["above_bytes"]), "GiB")


def main(arguments: Sequence[str] | None = None) -> None:
    bench, _ = begin(__doc__, arguments)
    sizes = TINY if bench.is_tiny else FULL
    for dtype in (torch.bfloat16, torch.float32):
        lines = measure(bench, sizes, dtype)
        if dtype == torch.bfloat16:
            summary(bench, sizes, lines)
        lines = [line for line in lines if "ours" in line["what"]]
        kind = "bfloat16" if dtype == torch.bfloat16 else "float32"
        limits = {"gradient_error": GRADIENT_ERROR[dtype]}
        if bench.is_cuda or dtype == torch.float32:  # a CPU rounds logits of 16 bit
            limits |= {"logp_error": LOGP_ERROR, "entropy_error": ENTROPY_ERROR}
        for name, limit in limits.items():
            worst = largest([line.get(name) for line in lines])
            bench.judge(f"head, {kind}, {name.replace('_', ' ')}", worst, "", at_most=limit)


if __name__ == "__main__":
    main()
