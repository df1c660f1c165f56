"""The head and the policy loss: milliseconds, peak bytes and error against float64, for each implementation and chunk.

python benchmarks/gpu_head.py          20,480 tokens × 4096 × 128,256 in bfloat16 on CUDA
python benchmarks/gpu_head.py --tiny   the same in miniature, on whatever is there
Needs torch and triton only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from rlvr.logprob import token_logprobs
from rlvr.loss import policy_loss
from rlvr.types import LossSpec, Totals

FULL = {"tokens": 20_480, "width": 4096, "vocabulary": 128_256, "chunks": (256, 512, 1024, 2048), "repeats": 7}
TINY = {"tokens": 64, "width": 32, "vocabulary": 1000, "chunks": (16, 32), "repeats": 2}
CHECKED = 256  # tokens whose truth in float64 is computed
Outcome = tuple[Tensor, Tensor, Tensor]  # log-probabilities, entropies, dH


def spec_of(loss_type: str, *, bonus: float) -> LossSpec:
    return LossSpec(
        loss_type=loss_type,  # type: ignore[arg-type]
        epsilon=0.2,
        epsilon_high=5.0 if loss_type == "cispo" else 0.28,
        delta=None,
        beta=0.0,
        kl_unbiased=True,
        importance_correction="token_truncate",
        importance_min=None,
        importance_max=3.0,
        entropy_bonus=bonus,
        max_completion_tokens=4096,
        temperature=1.0,
    )


def make_inputs(sizes: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of standard deviation 3, as of a trained model."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    hidden = normal(sizes["tokens"], sizes["width"])
    head = normal(sizes["vocabulary"], sizes["width"]) * (3 / sizes["width"] ** 0.5)
    return hidden, head, torch.randint(len(head), (len(hidden),), generator=generator, device=device)


def micro_batch(target: Tensor) -> Any:
    """The fields of a MicroBatch that the loss reads: eight completions, an old policy and an engine nearby."""
    tokens, device = len(target), target.device
    logp = -2 * torch.rand(tokens, device=device)
    return SimpleNamespace(
        target_T=target,
        row_T=torch.arange(tokens, device=device) * 8 // tokens,
        advantage_T=torch.randn(8, device=device)[torch.arange(tokens, device=device) * 8 // tokens],
        old_logp_T=None,
        sampler_logp_T=logp,
        reference_logp_T=None,
    )


def head_work(inputs: tuple[Tensor, Tensor, Tensor], how: dict[str, Any]) -> Callable[[], Outcome]:
    """Forward and backward of −Σ logp with a frozen head."""

    def work() -> Outcome:
        hidden, head, target = inputs
        leaf = hidden.detach().requires_grad_()
        logp, entropy = token_logprobs(leaf, head, target, temperature=1.0, **how)
        (gradient,) = torch.autograd.grad(-logp.sum(), leaf)
        return logp.detach(), entropy.detach(), gradient

    return work


def loss_work(inputs: tuple[Tensor, Tensor, Tensor], spec: LossSpec, how: dict[str, Any]) -> Callable[[], Any]:
    micro = micro_batch(inputs[2])

    def work() -> Tensor:
        leaf = inputs[0].detach().requires_grad_()
        totals = Totals(rows=8, tokens=len(leaf))
        loss, _ = policy_loss(leaf, inputs[1], micro, totals=totals, spec=spec, **how)
        return torch.autograd.grad(loss, leaf)[0]

    return work


def measured(work: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, float | int | None]:
    """Median milliseconds after one call to warm up, and on CUDA the peak above what was allocated before."""
    on_cuda = device.type == "cuda"
    work()
    before = 0
    if on_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if on_cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - started) * 1e3)
    peak_bytes = torch.cuda.max_memory_allocated() - before if on_cuda else None
    return {"milliseconds": round(statistics.median(times), 3), "peak_bytes": peak_bytes}


def errors(found: Outcome, inputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Of the first tokens, against float64: largest distance of log-probability and entropy, relative of dH."""
    hidden, head, target = inputs[0][:CHECKED].double().requires_grad_(), inputs[1].double(), inputs[2][:CHECKED]
    logp_TV = (hidden @ head.T).log_softmax(-1)
    logp = logp_TV.gather(1, target[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(-logp.sum(), hidden)
    entropy = -(logp_TV.detach().exp() * logp_TV.detach()).sum(-1)
    logp_found, entropy_found, gradient_found = (x[:CHECKED].double() for x in found)
    return {
        "logp_error": (logp_found - logp).abs().max().item(),
        "entropy_error": (entropy_found - entropy).abs().max().item(),
        "gradient_relative_error": ((gradient_found - gradient).norm() / gradient.norm()).item(),
    }


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures, or that they did not fit."""
    try:
        return work()
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).split(". ")[0]}


def cases(sizes: dict[str, Any], device: torch.device) -> list[tuple[str, dict[str, Any]]]:
    kinds = ["torch", "triton"] if device.type == "cuda" else ["torch"]
    chunked = [
        (f"{kind}, {rows} rows", {"impl": kind, "chunk_rows": rows}) for kind in kinds for rows in sizes["chunks"]
    ]
    return [("reference", {"impl": "reference"}), ("auto", {"impl": "auto"}), *chunked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a size that any machine does in a second")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = TINY if options.tiny else FULL
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        inputs = make_inputs(sizes, device, dtype)
        for name, how in cases(sizes, device):

            def head_figures(how: dict[str, Any] = how, inputs: Any = inputs) -> dict[str, Any]:
                work = head_work(inputs, how)
                return measured(work, device, sizes["repeats"]) | errors(work(), inputs)

            results.append({"what": "head", "dtype": str(dtype), "case": name} | attempt(head_figures))
            print(results[-1], flush=True)
            for loss_type in ("dapo", "gspo"):

                def loss_figures(
                    how: dict[str, Any] = how, inputs: Any = inputs, kind: str = loss_type
                ) -> dict[str, Any]:
                    return measured(loss_work(inputs, spec_of(kind, bonus=0.01), how), device, sizes["repeats"])

                results.append({"what": loss_type, "dtype": str(dtype), "case": name} | attempt(loss_figures))
                print(results[-1], flush=True)
    made = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    if options.out:
        options.out.write_text(json.dumps(made | {"sizes": sizes, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
