"""A transformers model with its weights: read from files, or built on those of an engine."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, GenerationConfig, Mxfp4Config

from rlvr.attention import layout as attention
from rlvr.memory.views import NotShareable, Views, model_on
from rlvr.model.files import reason
from rlvr.model.probe import REMEDY
from rlvr.model.source import Source
from rlvr.runtime.messages import note
from rlvr.types import UserError

AttentionInterface.register(attention.NAME, attention.attention)


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
        note(f"trainer and engine keep a copy of the weights each: {why}")
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"the model {source.name!r} cannot be loaded: {reason(error)}") from None
    with suppress(OSError):  # without the file, config.json says how a completion ends
        model.generation_config = GenerationConfig.from_pretrained(source.name, revision=source.revision or "main")
    return model
