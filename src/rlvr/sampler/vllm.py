"""Sampling with vLLM in the trainer's process: all completions of a step in one continuous batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from rlvr.policy import Policy
from rlvr.sampler.completions import make_completions, stable_seed
from rlvr.sampler.engine import release_cache, resume_cache, stop_engine, without_compiling
from rlvr.sampler.protocol import Sampling
from rlvr.sampler.weights import adapter_request, has_adapter, send_weights
from rlvr.types import Group, Prompt


@dataclass
class VllmSampler:
    """`llm` is from start_engine; `opening` is the text that the prompt already gives away of the completion."""

    llm: Any
    tokenizer: Any
    opening: str
    sampling: Sampling
    is_cuda: bool
    eos_ids: tuple[int, ...] = ()
    adapter: Any = None

    def resume(self) -> None:
        resume_cache(self.llm, is_cuda=self.is_cuda)

    def sync(self, policy: Policy) -> None:
        send_weights(self.llm, policy)
        self.eos_ids = policy.eos_ids
        self.adapter = adapter_request() if has_adapter(policy) else None

    def at(self, temperature: float) -> Self:
        return replace(self, sampling=replace(self.sampling, temperature=temperature))

    def sample(
        self, prompts: Sequence[Prompt], completions_per_prompt: int, *, seed: tuple[int, ...]
    ) -> Iterator[Group]:
        """See Sampler.sample; `seed` is mixed with each problem's id, and sibling number i draws from that plus i."""
        assert self.eos_ids, "sync() comes before sample()"
        engine = self.llm.llm_engine
        waiting = {str(p): prompt for p, prompt in enumerate(prompts)}
        try:
            for name, prompt in waiting.items():
                engine.add_request(
                    name,
                    {"prompt_token_ids": list(prompt.tokens)},
                    self._how(completions_per_prompt, stable_seed((*seed, prompt.problem.id))),
                    lora_request=self.adapter,
                )
            while waiting:
                with without_compiling(is_cuda=self.is_cuda):
                    finished = engine.step()
                for output in finished:
                    yield self._group(waiting.pop(output.request_id), output.outputs)
        finally:  # nobody may be waiting for the rest
            engine.abort_request(list(waiting))

    def release(self) -> None:
        release_cache(self.llm, is_cuda=self.is_cuda)

    def close(self) -> None:
        stop_engine(self.llm)

    def _how(self, completions: int, seed: int) -> Any:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        return SamplingParams(
            n=completions,
            temperature=self.sampling.temperature,
            max_tokens=self.sampling.max_completion_tokens,
            seed=seed,
            logprobs=0,  # of the token drawn
            flat_logprobs=True,
            stop_token_ids=list(self.eos_ids),
            ignore_eos=True,  # the engine's own idea of it; those above are all
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _group(self, prompt: Prompt, outputs: Sequence[Any]) -> Group:
        token_ids = [torch.tensor(output.token_ids) for output in outputs]
        logps = [torch.tensor(output.logprobs.logprobs) for output in outputs]
        ended = [output.token_ids[-1] in self.eos_ids for output in outputs]
        return Group(prompt, tuple(make_completions(self.tokenizer, self.opening, token_ids, logps, ended)))
