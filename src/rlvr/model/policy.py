"""The model that is trained: loading, hidden states, head, and its files."""
# S input tokens · T trained tokens · D hidden · V vocabulary

from __future__ import annotations

import copy
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlvr.attention import layout as attention
from rlvr.linear import through_onednn
from rlvr.logprob import Impl, LogitMap, token_logprobs
from rlvr.memory.layer import install
from rlvr.memory.lora import fuse
from rlvr.memory.mlp import gate_in_place
from rlvr.memory.quantized import quantize, scales
from rlvr.memory.views import NotShareable, Views, model_on
from rlvr.model.head import at_least_float32, check_head, logit_map
from rlvr.model.source import Source
from rlvr.model.tokenizer import turn_end
from rlvr.runtime.messages import note
from rlvr.types import UserError

if TYPE_CHECKING:
    from rlvr.batch import MicroBatch
    from rlvr.config import Config, Memory

AttentionInterface.register(attention.NAME, attention.attention)


@dataclass(frozen=True)
class Policy:
    """A causal language model, its decoder `body` without the head, and the ids that end a completion.

    `kernels` and `logit_chunk_rows` say how token_logprobs and policy_loss go over its head.
    """

    model: Any
    body: Any
    eos_ids: tuple[int, ...]
    kernels: Impl
    logit_chunk_rows: int | None

    @property
    def head(self) -> Tensor:
        """The output projection, [V, D]."""
        weight: Tensor = self.base.get_output_embeddings().weight
        return weight

    @property
    def logit_map(self) -> LogitMap:
        """The model's soft-cap and scale of logits, at temperature 1."""
        return logit_map(self.base.config)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary in at least float32, without a graph. [..., D] → [..., V]"""
        return self.logit_map.apply_(at_least_float32(self.base.get_output_embeddings()(hidden)))

    @property
    def base(self) -> Any:
        """The transformers model, under the adapter if there is one."""
        return _base(self.model)

    @property
    def device(self) -> torch.device:
        return self.head.device

    @property
    def is_float16(self) -> bool:
        """Whether its gradients go through float16, so that the loss has to be scaled."""
        return self.head.dtype == torch.float16

    def hidden(self, micro: MicroBatch) -> Tensor:
        """Final hidden states where a trained token is predicted. [T, D]"""
        hidden_SD = self.hidden_stream(micro.token_S, micro.position_S, micro.layout)
        return hidden_SD[micro.layout.num_prefix_tokens :]

    def hidden_stream(self, token_S: Tensor, position_S: Tensor, layout: attention.Layout) -> Tensor:
        """Final hidden states of a flat token stream whose attention `layout` defines. [S, D]"""
        output = self.body(input_ids=token_S[None], position_ids=position_S[None], use_cache=False, layout=layout)
        hidden_SD: Tensor = output.last_hidden_state[0]
        return hidden_SD

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name and parameter of everything that is trained: the adapter, or all weights."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def trainable_state(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.trainable().items()}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.trainable().items():
                weight.copy_(state[name])

    def frozen_copy(self) -> Policy:
        """The policy as it is now, for use as the reference; frozen base weights are shared, not copied."""
        shared = {id(w): w for w in self.model.parameters() if not w.requires_grad} | scales(self.model)
        model = copy.deepcopy(self.model, dict(shared)).requires_grad_(False)
        return replace(self, model=model, body=_base(model).get_decoder())

    @torch.no_grad()
    def logprobs(self, micro: MicroBatch, *, temperature: float) -> Tensor:
        """Log-probabilities of the micro-batch's trained tokens, without a graph. [T]"""
        return self.token_logprobs(micro, temperature=temperature)[0]

    def token_logprobs(self, micro: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of the micro-batch's trained tokens, differentiable in the first. [T], [T]"""
        return token_logprobs(
            self.hidden(micro),
            self.head,
            micro.target_T,
            temperature=temperature,
            soft_cap=self.logit_map.soft_cap,
            logit_scale=self.logit_map.scale,
            impl=self.kernels,
            chunk_rows=self.logit_chunk_rows,
        )

    def save(self, folder: Path) -> None:
        """Write the adapter in PEFT's layout, or the whole model in transformers'."""
        self.model.save_pretrained(folder, safe_serialization=True)


def load_policy(
    cfg: Config,
    source: Source,
    tokenizer: Any,
    *,
    start: Path | None,
    keep: Collection[str] = (),
    base: Views | None = None,
) -> Policy:
    """The policy for training: the model `source`, moved on to the weights in `start` where it holds any.

    With `model.adapter: lora` the base is frozen and `start` holds an adapter; a new one begins without effect. The
    frozen weights are then the tensors of `base`, not copies, where these are known to be the model's; a note says so
    where they are not. With 4-bit weights the layers in `keep` stay as they are. Raises UserError when the model cannot
    be used.
    """
    start = start if start is not None and has_weights(start) else None
    with_adapter = cfg.model.adapter == "lora"
    if start is not None and not with_adapter:
        source = Source(str(start), None, None)
    shared = None if base is None else _shared_model(cfg, source, base)
    model = _own_model(cfg, source) if shared is None else shared
    device = device_of(cfg)
    if cfg.model.quantization != "none" and shared is None:
        for name, why in quantize(model, device=device, keep=keep).left.items():
            if name not in keep:
                note(f"{name} stays in 16 bits: {why}")
    model = model.to(device).train()
    check_head(model, name=source.name)
    eos_ids = end_of_sequence_ids(model.generation_config.eos_token_id, tokenizer)
    model = _with_adapter(cfg, model, start) if with_adapter else model
    model = through_onednn(model, keeps_packed=shared is None)
    return Policy(model, _base(model).get_decoder(), eos_ids, "auto", None)


def for_training(policy: Policy, memory: Memory) -> Policy:
    """`policy` as section memory wants its updates: fused adapters, gates in place, layers recomputed in tiles.

    Sampling runs as before. Modules, names and parameters stay as they are.
    """
    if hasattr(policy.model, "get_base_model"):
        fuse(policy.model)
    gate_in_place(policy.model)
    if memory.tile_rows is not None:
        for name in install(policy.model, tile_rows=memory.tile_rows, offload=offloads(memory, policy.device)):
            note(f"{name} is of a kind that is recomputed as a whole, not in tiles")
    return replace(policy, kernels=memory.kernels, logit_chunk_rows=memory.logit_chunk_rows)


def offloads(memory: Memory, device: torch.device) -> bool:
    """Whether layers that are recomputed keep their inputs on the host: `memory.offload`, with auto resolved."""
    return memory.offload == "on" or (memory.offload == "auto" and device.type == "cuda")


def has_weights(folder: Path) -> bool:
    """Whether a stage left weights in `folder` (a pre-finetune that is off leaves only a card)."""
    return any(folder.glob("*.safetensors"))


def load_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def device_of(cfg: Config) -> torch.device:
    """`compute.device`, with auto resolved. Raises UserError if the device is missing."""
    name = cfg.compute.device
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name]:
        raise UserError(f"compute.device is {name}, which torch {torch.__version__} cannot use here; take auto or cpu")
    return torch.device(name)


def dtype_of(cfg: Config) -> torch.dtype:
    """`compute.dtype`, with auto resolved to fastest_dtype."""
    if cfg.compute.dtype == "auto":
        kind = device_of(cfg).type
        return fastest_dtype(
            kind, has_bfloat16=kind == "cuda" and has_bfloat16(), is_frozen=cfg.model.adapter == "lora"
        )
    named: torch.dtype = getattr(torch, cfg.compute.dtype)
    return named


def fastest_dtype(kind: str, *, has_bfloat16: bool, is_frozen: bool) -> torch.dtype:
    """bfloat16 on a GPU, float16 on one without it, float32 on a device of another `kind`.

    float16 is for frozen weights under an adapter: a GPU without bfloat16 trains all weights in float32.
    """
    if kind != "cuda":
        return torch.float32
    if has_bfloat16:
        return torch.bfloat16
    return torch.float16 if is_frozen else torch.float32


def has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16, rather than imitating it."""
    is_real: bool = torch.cuda.is_bf16_supported(including_emulation=False)
    return is_real


def device_name(device: torch.device) -> str:
    """How the device is called in cards and reports."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def end_of_sequence_ids(declared: int | list[int] | None, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a completion: those `declared` by the model, the tokenizer's, the template's end of turn."""
    ids = {tokenizer.eos_token_id, turn_end(tokenizer), *(declared if isinstance(declared, list) else [declared])} - {
        None
    }
    if not ids:
        raise UserError("neither the tokenizer, its chat template nor the generation config names a token that ends")
    return tuple(sorted(ids))


def _own_model(cfg: Config, source: Source) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(
            source.name,
            revision=source.revision or "main",
            dtype=dtype_of(cfg),
            attn_implementation=attention.NAME,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"the model {source.name!r} cannot be loaded: {error}") from None


def _shared_model(cfg: Config, source: Source, base: Views) -> Any:
    """The model on the tensors of `base`, or None, with a note, when it cannot be built on them."""
    if cfg.model.adapter != "lora":
        raise ValueError("only frozen weights can be shared with an engine: model.adapter must be lora")
    where: dict[str, Any] = {"revision": source.revision or "main", "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source.name, **where)
        model = model_on(base, config, dtype=dtype_of(cfg), attention=attention.NAME)
    except NotShareable as reason:
        note(f"trainer and engine keep a copy of the weights each: {reason}")
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"the model {source.name!r} cannot be loaded: {error}") from None
    with suppress(OSError):  # without the file, config.json says how a completion ends
        model.generation_config = GenerationConfig.from_pretrained(source.name, revision=source.revision or "main")
    return model


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _with_adapter(cfg: Config, model: Any, start: Path | None) -> Any:
    """`model` under a new adapter, or the one in `start`."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    if start is None:
        settings = LoraConfig(
            r=cfg.model.lora.rank,
            lora_alpha=cfg.model.lora.alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    else:
        settings = LoraConfig.from_pretrained(start)
        settings.inference_mode = False
        if settings.r != cfg.model.lora.rank:
            raise UserError(f"{start} holds a LoRA of rank {settings.r}, but model.lora.rank is {cfg.model.lora.rank}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.compute.seed)
        model = get_peft_model(model, settings)
    if start is not None:
        _read_adapter(model, start / "adapter_model.safetensors")
    return model


@torch.no_grad()
def _read_adapter(model: Any, path: Path) -> None:
    """Copy the adapter in the file over that of `model`, a tensor at a time: it is never there twice.

    Raises UserError when the file holds other tensors than the adapter has.
    """
    trained = {name.replace(".default.", "."): w for name, w in model.named_parameters() if w.requires_grad}
    with safe_open(path, framework="pt") as file:
        if different := trained.keys() ^ file.keys():
            raise UserError(f"{path} is not a whole adapter of this model: {min(different)} is in one of them only")
        for name, weight in trained.items():
            weight.copy_(file.get_tensor(name))
