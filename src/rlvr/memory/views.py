"""A transformers model on frozen weights that another owner holds: built without storage, then pointed at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.memory.quantized import BLOCK, Nf4, linear_on

Views = Mapping[str, Tensor | Nf4]
COPIES = "trainer and engine each keep their own copy of the weights"  # where they cannot share them


class NotShareable(Exception):
    """Why a model cannot be built on given tensors."""


def model_on(views: Views, config: Any, *, dtype: torch.dtype, attention: str) -> Any:
    """The causal language model of `config` in `dtype`, every parameter the tensor that `views` has under its name.

    No weight is copied: parameter and view have one storage. Linear layers whose view is in 4 bits become bitsandbytes'
    and compute in `dtype`. Raises NotShareable when a parameter has no view, or one of another shape or type.
    """
    from accelerate import init_empty_weights  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    actual = {
        name: _view(views, name) for name, _ in model.named_parameters() if name not in model.all_tied_weights_keys
    }
    for name, view in actual.items():
        if isinstance(view, Tensor):
            _check_dense(name, view, model.get_parameter(name))
            module_name, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module_name), leaf, nn.Parameter(view, requires_grad=False))
    for name, view in actual.items():
        if isinstance(view, Nf4):
            module_name = name.removesuffix(".weight")
            layer = model.get_submodule(module_name)
            _check_nf4(name, view, layer)
            model.set_submodule(module_name, linear_on(view, layer, dtype))
            model.is_loaded_in_4bit = True  # PEFT asks for it, to take its 4-bit LoRA layer
    model.tie_weights()
    _check_one_copy(model, actual)
    return model.to(next(iter(model.parameters())).device)  # the buffers, which were computed on the host


def _view(views: Views, name: str) -> Tensor | Nf4:
    if name not in views:
        raise NotShareable(f"the engine has no {name}")
    return views[name]


def _check_dense(name: str, view: Tensor, parameter: Tensor) -> None:
    if view.shape != parameter.shape or view.dtype != parameter.dtype:
        raise NotShareable(
            f"{name} is {parameter.dtype} of shape {tuple(parameter.shape)}, but the engine's {view.dtype} of shape "
            f"{tuple(view.shape)}"
        )
    if view.is_inference():
        raise NotShareable(f"the engine's {name} is an inference tensor, which autograd cannot use")


def _check_nf4(name: str, view: Nf4, layer: Any) -> None:
    shape = (layer.out_features, layer.in_features)
    actual = (tuple(view.state.shape), view.state.quant_type, view.state.blocksize, view.packed.numel())
    if actual != (shape, "nf4", BLOCK, layer.weight.numel() // 2) or view.packed.is_inference():
        raise NotShareable(f"{name} of shape {shape} is not in NF4 in blocks of {BLOCK} in the engine: {actual}")
    if layer.in_features % BLOCK:
        raise NotShareable(f"{name}: its input width {layer.in_features} is not a multiple of {BLOCK}")


def _check_one_copy(model: Any, views: Views) -> None:
    """Each parameter lies where its view lies, and nothing was left without storage."""
    for name, view in views.items():
        source = view if isinstance(view, Tensor) else view.packed
        assert model.get_parameter(name).data_ptr() == source.data_ptr(), name
    empty = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if empty:
        raise NotShareable(f"{', '.join(empty)} would stay empty")
