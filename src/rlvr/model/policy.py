"""The model that is trained: loading, hidden states, head, and its files."""
# S input tokens · T trained tokens · D hidden · V vocabulary

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers import AutoTokenizer

from rlvr.attention import layout as attention
from rlvr.attention.recurrent import carry
from rlvr.attention.shared_prompt import BehindPrompt, SharedPrompt
from rlvr.linear import through_onednn
from rlvr.logprob import Impl, LogitMap, token_logprobs
from rlvr.memory.layer import install
from rlvr.memory.lora import fuse
from rlvr.memory.mlp import gate_in_place
from rlvr.memory.norm import fuse_norms
from rlvr.memory.quantized import quantize, scales
from rlvr.memory.views import Views
from rlvr.model.device import sum_in_float32
from rlvr.model.files import reason
from rlvr.model.head import at_least_float32, check_head, logit_map
from rlvr.model.probe import check_packed
from rlvr.model.resolved import Lora
from rlvr.model.source import Source
from rlvr.model.tokenizer import check_template, turn_end
from rlvr.model.weights import own_model, shared_model
from rlvr.runtime.messages import note
from rlvr.types import UserError

if TYPE_CHECKING:
    from rlvr.batch import MicroBatch


@dataclass(frozen=True)
class Policy:
    """A causal language model, its decoder `body` without the head, and the ids that end a completion.

    `kernels` and `logit_chunk_rows` choose the implementation and chunk size of token_logprobs and policy_loss.
    `is_recurrent`: some layers carry a state, which no keys of a shared prompt hold.
    """

    model: Any
    body: Any
    eos_ids: tuple[int, ...]
    kernels: Impl
    logit_chunk_rows: int | None
    is_recurrent: bool = False

    @property
    def head(self) -> Tensor:
        """The output projection, [V, D]."""
        weight: Tensor = self.base.get_output_embeddings().weight
        return weight

    @cached_property
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
        """Raises ValueError unless names and shapes are those of what is trained."""
        trained = self.trainable()
        ours, theirs = ({name: tuple(weight.shape) for name, weight in weights.items()} for weights in (trained, state))
        if ours != theirs:
            first = min(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
            raise ValueError(
                f"weights of another model: {first} has the shape {theirs.get(first)}, not {ours.get(first)}"
            )
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(state[name])

    def frozen_copy(self) -> Policy:
        """A frozen copy for use as the reference; frozen base weights are shared, not copied."""
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
            logit_map=self.logit_map,
            impl=self.kernels,
            chunk_rows=self.logit_chunk_rows,
        )

    def save(self, folder: Path) -> None:
        """Write the adapter in PEFT's layout, or the whole model in transformers'."""
        self.model.save_pretrained(folder, safe_serialization=True)


def load_policy(
    source: Source,
    tokenizer: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    lora: Lora | None = None,
    start: Path | None = None,
    nf4_except: Collection[str] | None = None,
    base: Views | None = None,
) -> Policy:
    """The policy for training: the model `source` in `dtype`, then the weights in `start` if that holds any.

    With `lora` the model is frozen under an adapter, that in `start` or a new one, which has no effect yet. The frozen
    weights are the tensors of `base`, not copies, where these are known to be the model's; a note says so where they
    are not. `nf4_except`: the frozen linear layers are quantized to NF4, all but those named; None quantizes nothing.
    Raises UserError when the model cannot be used, and ValueError for shared weights without an adapter.
    """
    sum_in_float32()
    start = start if start is not None and has_weights(start) else None
    if start is not None and lora is None:
        source = Source(str(start), None, None)
    if base is not None and lora is None:
        raise ValueError("only frozen weights can be shared with an engine: model.adapter must be lora")
    shared = None if base is None else shared_model(source, base, dtype)
    model = own_model(source, dtype) if shared is None else shared
    if nf4_except is not None and shared is None:
        for name, why in quantize(model, device=device, keep=nf4_except).left.items():
            if name not in nf4_except:
                note(f"{name} stays in 16 bits: {why}")
    model = model.to(device)
    if lora is None and device.type == "cpu":
        for weight in model.parameters():  # maps of the file: who writes over it would take back what is trained
            weight.data = weight.data.clone()
    is_recurrent = carry(model)
    with _disable_current_modes():  # what the checks take is neither planned nor counted: it is free before training
        check_head(model.eval(), name=source.name)
        check_packed(model, name=source.name)
    eos_ids = end_of_sequence_ids(model.generation_config.eos_token_id, tokenizer)
    model = model if lora is None else _with_adapter(model, lora, start)
    model = through_onednn(model.eval(), keeps_packed=shared is None)  # no dropout: sampler and trainer agree
    return Policy(model, _base(model).get_decoder(), eos_ids, "auto", None, is_recurrent)


def for_training(
    policy: Policy,
    *,
    tile_rows: int | None,
    offload: bool,
    keep_attention: bool,
    kernels: Impl,
    logit_chunk_rows: int | None,
) -> Policy:
    """`policy` with cheaper updates: fused adapters and norms, gates in place, layers in tiles of `tile_rows`.

    With `offload` recomputed layers keep their inputs on the host, and with `keep_attention` what their attention gave
    in the same place; `kernels` and `logit_chunk_rows` are the policy's. Modules, names and parameters stay as they
    are.
    """
    with _disable_current_modes():  # as in load_policy: what the probes of gates and norms take is free again
        if hasattr(policy.model, "get_base_model"):
            fuse(policy.model)
        gate_in_place(policy.model)
        fuse_norms(policy.model, impl=kernels)
    if tile_rows is not None:
        for name in install(policy.model, tile_rows=tile_rows, offload=offload, keep_attention=keep_attention):
            note(f"{name} is recomputed as a whole, not in tiles: its layout is not known")
    return replace(policy, kernels=kernels, logit_chunk_rows=logit_chunk_rows)


def in_turn(policy: Policy, micros: Sequence[MicroBatch], *, with_gradient: bool) -> Iterator[MicroBatch]:
    """`micros`, and before those that share a prompt its pass through `policy`.

    With `with_gradient` a micro-batch has gone backward when the next is asked for; after the last one of a prompt,
    that goes backward, too.
    """
    for prompt, behind in groupby(micros, key=_prompt):
        if prompt is None:
            yield from behind
            continue
        with torch.set_grad_enabled(with_gradient):
            hidden_SD = policy.hidden_stream(prompt.token_S, prompt.position_S, prompt)
        yield from behind
        if hidden_SD.requires_grad:
            torch.autograd.backward(hidden_SD, torch.zeros_like(hidden_SD))
        prompt.keys.clear()


def _prompt(micro: MicroBatch) -> SharedPrompt | None:
    return micro.layout.prompt if isinstance(micro.layout, BehindPrompt) else None


def has_weights(folder: Path) -> bool:
    """Whether a stage left weights in `folder` (a pre-finetune that is off leaves only a card)."""
    return any(folder.glob("*.safetensors"))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`. Raises UserError where it, or its chat template, cannot be used."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each reader of its files raises its own
        raise UserError(f"the tokenizer in {folder} cannot be loaded: {reason(error)}") from None
    if tokenizer.chat_template is not None:
        check_template(tokenizer)
    return tokenizer


def end_of_sequence_ids(declared: int | list[int] | None, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a completion: those `declared` by the model, the tokenizer's, the template's end of turn.

    Raises UserError where there is none, and for what is no id.
    """
    for one in declared if isinstance(declared, list) else [declared]:
        if one is not None and type(one) is not int:
            raise UserError(
                f"generation_config.json: eos_token_id holds {one!r}, which is no id of a token: write 2 or [2, 3]"
            )
    ids = {tokenizer.eos_token_id, turn_end(tokenizer), *(declared if isinstance(declared, list) else [declared])} - {
        None
    }
    if not ids:
        raise UserError(
            "no end-of-sequence token: neither the tokenizer, its chat template nor generation_config.json names one"
        )
    return tuple(sorted(ids))


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _with_adapter(model: Any, lora: Lora, start: Path | None) -> Any:
    """`model` under a new adapter, or the one in `start`."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    if start is None:
        settings = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    else:
        settings = LoraConfig.from_pretrained(start)
        settings.inference_mode = False
        if settings.r != lora.rank:
            raise UserError(f"{start} holds a LoRA of rank {settings.r}, but model.lora.rank is {lora.rank}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lora.seed)
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
