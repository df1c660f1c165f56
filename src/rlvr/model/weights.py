"""A transformers model with its weights: read from files, or built on those of an engine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, GenerationConfig, Mxfp4Config

from rlvr.attention import layout as attention
from rlvr.memory.views import COPIES, NotShareable, Views, model_on
from rlvr.model.files import reason
from rlvr.model.probe import REMEDY
from rlvr.model.source import Source
from rlvr.runtime.messages import note
from rlvr.types import UserError

AttentionInterface.register(attention.NAME, attention.attention)

SIDES = {"A.weight": ("in_features", 1), "B.weight": ("out_features", 0)}  # of a LoRA: the layer's, and where it is


def own_model(source: Source, dtype: torch.dtype) -> Any:
    """The model `source` in `dtype`. Raises UserError where it cannot be read, or lacks some of its weights.

    Experts in MXFP4, as gpt-oss has them, are unpacked: their kernels have no backward.
    """
    where: dict[str, Any] = {"revision": source.revision or "main", "trust_remote_code": False}
    try:
        packed = getattr(AutoConfig.from_pretrained(source.name, **where), "quantization_config", None) or {}
        is_mxfp4 = packed.get("quant_method") == "mxfp4"
        model, about = AutoModelForCausalLM.from_pretrained(
            source.name,
            dtype=dtype,
            attn_implementation=attention.NAME,
            use_safetensors=True,
            output_loading_info=True,
            **where,
            **({"quantization_config": Mxfp4Config(dequantize=True)} if is_mxfp4 else {}),
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # each class of transformers, and each reader of its files, raises its own
        is_fixed = isinstance(error, KeyError) and error.args == (attention.NAME,)
        why = f"its class does not call transformers' attention interface; {REMEDY}" if is_fixed else reason(error)
        raise UserError(f"the model {source.name!r} cannot be loaded: {why}") from error
    if missing := sorted(about["missing_keys"]):
        raise UserError(
            f"the model {source.name!r} cannot be loaded: its files lack {len(missing)} weights of "
            f"{type(model).__name__}, {missing[0]} among them, which would be random; get the whole model again"
        )
    return model.to(dtype) if is_mxfp4 else model


def shared_model(source: Source, base: Views, dtype: torch.dtype) -> Any:
    """The model on the tensors of `base`, or None, with a note, when it cannot be built on them."""
    where: dict[str, Any] = {"revision": source.revision or "main", "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source.name, **where)
        model = model_on(base, config, dtype=dtype, attention=attention.NAME)
    except NotShareable as why:
        note(f"{COPIES}: {why}")
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"the model {source.name!r} cannot be loaded: {reason(error)}") from None
    with suppress(OSError):  # without the file, config.json says how a completion ends
        model.generation_config = GenerationConfig.from_pretrained(source.name, revision=source.revision or "main")
    return model


def misfit(adapter: Path, source: Source) -> str | None:
    """Which tensor of the LoRA in the file `adapter` no layer of the model `source` has room for; None if all fit.

    Reads shapes only: no weights are loaded. Raises UserError for a model that cannot be built and for a damaged file.
    """
    try:
        config = AutoConfig.from_pretrained(source.name, revision=source.revision or "main", trust_remote_code=False)
        with torch.device("meta"):
            layers = dict(AutoModelForCausalLM.from_config(config, trust_remote_code=False).named_modules())
    except Exception as error:  # each class of transformers raises its own
        raise UserError(f"the model {source.name!r} cannot be built: {reason(error)}") from None
    try:
        with safe_open(adapter, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{adapter} is damaged, or was not pulled: {reason(error)}") from None
    for name, shape in shapes.items():
        place, _, side = name.removeprefix("base_model.model.").rpartition(".lora_")
        if side not in SIDES or ".experts" in place:  # peft adapts experts by another name
            continue
        if (layer := layers.get(place)) is None:
            return f"it adapts {place}, which that model does not have"
        what, at = SIDES[side]
        room = getattr(layer, what, None)
        if room is not None and room != shape[at]:
            return f"{place} has {shape[at]} {what} in it, and {room} in that model"
    return None
