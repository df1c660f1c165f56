"""One copy of the base weights: the tensors of a vLLM engine under the names that transformers gives them.

vLLM keeps queries, keys and values in one tensor, and gate and up projections in another; each part is a range of rows,
or of bytes where the weight is in NF4. The embedding has rows to spare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from rlvr.linear import product
from rlvr.memory.quantized import Nf4
from rlvr.memory.views import NotShareable

KNOWN = {
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
}  # vLLM's classes whose weights the tests have compared with those of transformers


def base_tensors(llm: Any) -> dict[str, Tensor | Nf4]:
    """Every weight of the engine `llm` as a view, by its name in transformers; one of a tied head is not repeated.

    Raises NotShareable when the engine's layout is not known.
    """
    (model,) = llm.collective_rpc(lambda worker: worker.get_model())
    if type(model).__name__ not in KNOWN:
        raise NotShareable(f"how vLLM keeps the weights of a {type(model).__name__} has not been tested")
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the engine loads on its own stream
    views: dict[str, Tensor | Nf4] = {}
    for name, weight in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        path, _, fused = owner.removesuffix(".base_layer").rpartition(".")
        parts = model.packed_modules_mapping.get(fused, [fused])
        names = [".".join(filter(None, (path, part, leaf))) for part in parts]
        views |= zip(names, _parts(name, model.get_submodule(owner), weight, len(parts)), strict=True)
    return views


def _parts(name: str, layer: Any, weight: Tensor, count: int) -> Sequence[Tensor | Nf4]:
    """The `count` weights that one tensor of the engine holds."""
    plain = weight.detach().as_subclass(Tensor)
    if states := getattr(weight, "bnb_quant_state", None):
        ends = weight.bnb_shard_offsets.tolist()  # type: ignore[attr-defined]
        if len(states) != count or ends[-1] != len(plain):
            raise NotShareable(f"{name} holds {len(states)} weights of {ends[-1]} bytes, not {count} of {len(plain)}")
        return [Nf4(plain[first:end], states[i]) for i, (first, end) in enumerate(pairwise(ends))]
    if count == 1:
        return [plain[: getattr(layer, "org_vocab_size", len(plain))]]
    rows: list[int] = layer.output_sizes
    if len(rows) != count or sum(rows) != len(plain):
        raise NotShareable(f"{name} has {len(plain)} rows, not {count} parts of {rows}")
    return [plain[first:end] for first, end in pairwise(accumulate(rows, initial=0))]


@contextmanager
def shareable_weights(*, quantization: str) -> Iterator[None]:
    """An engine that starts in this block keeps its weights in a form that the trainer can use as well.

    Otherwise vLLM on a CPU puts them into its own layouts, and unpacks the scales of NF4 into 32 bits. Replaces one
    function of vLLM and one of its bitsandbytes plugin while the block runs; nothing that is not loaded in it changes.
    """
    from vllm.model_executor.layers import utils  # noqa: PLC0415

    packing = utils.dispatch_cpu_unquantized_gemm

    def keep(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim == 2:
            layer.cpu_linear = product
        else:
            packing(layer, remove_weight)

    with ExitStack() as stack:
        stack.enter_context(_replaced(utils, "dispatch_cpu_unquantized_gemm", keep))
        if quantization != "none":
            from vllm_bnb_plugin.bitsandbytes_loader import BitsAndBytesModelLoader  # noqa: PLC0415

            stack.enter_context(_replaced(BitsAndBytesModelLoader, "_dequantize_dq", lambda _, states: states))
        yield


def multiply_in_own_type() -> None:
    """From here on vLLM multiplies NF4 weights in the type of the model, as the trainer does.

    The plugin's own way is bfloat16 for all, which costs float16 three of its bits and a card before Ampere its speed.
    """
    from vllm_bnb_plugin.quantization.linear import BitsAndBytesLinearMethod, apply_bnb_4bit  # noqa: PLC0415

    def multiplied(_: Any, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight, rows = layer.weight, x.reshape(-1, x.shape[-1])
        out = rows.new_empty(len(rows), sum(state.shape[0] for state in weight.bnb_quant_state.values()))
        apply_bnb_4bit(rows, weight, weight.bnb_shard_offsets, out)
        out = out.view(*x.shape[:-1], out.shape[-1])
        return out if bias is None else out + bias

    BitsAndBytesLinearMethod._apply_4bit_weight = multiplied


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
