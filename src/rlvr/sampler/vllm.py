"""Sampling with vLLM in the trainer's process: all completions of a step in one continuous batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from rlvr.memory.views import COPIES, NotShareable, Views
from rlvr.model.policy import Policy
from rlvr.runtime.messages import note
from rlvr.sampler.completions import make_completions, stable_seed
from rlvr.sampler.engine import release_cache, resume_cache, stop_engine, without_compiling
from rlvr.sampler.failures import alive
from rlvr.sampler.protocol import Sampling
from rlvr.sampler.shared import base_tensors
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
    eos_ids: tuple[int, ...] | None = None
    adapter: Any = None
    is_shared: bool = False

    def base_tensors(self) -> Views | None:
        """The engine's weights, where it was started to share them; a note says why when that cannot be."""
        try:
            return base_tensors(self.llm) if self.is_shared else None
        except NotShareable as reason:
            note(f"{COPIES}: {reason}")
            return None

    def resume(self) -> None:
        with alive("resuming"):
            resume_cache(self.llm, is_cuda=self.is_cuda)

    def sync(self, policy: Policy) -> None:
        with alive("loading the new weights"):
            send_weights(self.llm, policy)
        words = self.llm.llm_engine.model_config.get_vocab_size()  # vLLM refuses an end that no model could sample
        self.eos_ids = tuple(end for end in policy.eos_ids if end < words)
        self.adapter = adapter_request() if has_adapter(policy) else None

    def at(self, temperature: float) -> Self:
        return replace(self, sampling=replace(self.sampling, temperature=temperature))

    def sample(
        self, prompts: Sequence[Prompt], completions_per_prompt: int, *, seed: tuple[int, ...]
    ) -> Iterator[Group]:
        """See Sampler.sample; `seed` is mixed with each problem's id, and sibling number i draws from that plus i.

        Raises StepFailed when the engine fails.
        """
        assert self.eos_ids is not None, "sync() comes before sample()"
        engine = self.llm.llm_engine
        assert not engine.is_sleeping(), "resume() comes before sample(): an engine that sleeps takes no step"
        waiting = {str(p): prompt for p, prompt in enumerate(prompts)}
        try:
            with alive("accepting the prompts"):
                for name, prompt in waiting.items():
                    engine.add_request(
                        name,
                        {"prompt_token_ids": list(prompt.tokens)},
                        self._how(completions_per_prompt, stable_seed((*seed, prompt.problem.id)), self.eos_ids),
                        lora_request=self.adapter,
                    )
            while waiting:
                with alive("sampling"), without_compiling(is_cuda=self.is_cuda):
                    finished = engine.step()
                for output in finished:
                    group = self._group(waiting.pop(output.request_id), output.outputs, self.eos_ids)
                    yield replace(
                        group, completions=group.completions * (completions_per_prompt // len(output.outputs))
                    )
        finally:  # nobody may be waiting for the rest
            with suppress(Exception):  # after its failure, which is told already; otherwise the next sync() complains
                engine.abort_request(list(waiting))

    def release(self) -> None:
        with alive("releasing its memory"):
            release_cache(self.llm, is_cuda=self.is_cuda)

    def close(self) -> None:
        stop_engine(self.llm)

    def _how(self, completions: int, seed: int, ends: Sequence[int]) -> Any:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        return SamplingParams(
            n=completions if self.sampling.temperature > 0 else 1,  # it refuses several that would be the same
            temperature=self.sampling.temperature,
            max_tokens=self.sampling.max_completion_tokens,
            seed=seed,
            logprobs=0,  # of the token drawn
            flat_logprobs=True,
            stop_token_ids=list(ends),
            ignore_eos=True,  # the engine's own idea of it; those above are all
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _group(self, prompt: Prompt, outputs: Sequence[Any], ends: Sequence[int]) -> Group:
        token_ids = [torch.tensor(output.token_ids) for output in outputs]
        logps = [torch.tensor(output.logprobs.logprobs) for output in outputs]
        ended = [output.token_ids[-1] in ends for output in outputs]
        return Group(prompt, tuple(make_completions(self.tokenizer, self.opening, token_ids, logps, ended)))
