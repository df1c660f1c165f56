"""What a model's config allows: its kind, the length of a sequence, the number of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rlvr.model.files import reason
from rlvr.model.source import Source, config_file
from rlvr.plan.shapes import FAMILIES, read_shape
from rlvr.types import UserError

UNPACKED = {None, "mxfp4", "fp8"}  # how weights may be packed in the files of a model


def check_config(source: Source) -> Any:
    """The model's config. Raises UserError where transformers or the planner cannot read it, or it writes no text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING  # noqa: PLC0415

    config = read_config(source)
    known = f"docs/models.md lists the models that can be trained, those of {', '.join(FAMILIES)} among them"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"model.source {source.name!r} is of type {config.model_type}, for which transformers has no causal "
            f"language model; {known}"
        )
    packed = (getattr(config, "quantization_config", None) or {}).get("quant_method")
    if packed not in UNPACKED:
        raise UserError(
            f"model.source {source.name!r} holds weights that are quantized already ({packed}), which cannot be "
            "trained: use the model in 16 bits that it was made from; model.quantization: nf4 quantizes it here"
        )
    try:
        read_shape(config_file(source))
    except UserError as error:
        raise UserError(
            f"model.source {source.name!r} is of type {config.model_type}, which is not supported: {error}; {known}"
        ) from None
    return config


def read_config(source: Source) -> Any:
    """transformers' config of the model. Raises UserError."""
    from transformers import AutoConfig  # noqa: PLC0415

    try:
        return AutoConfig.from_pretrained(source.name, revision=source.revision or "main", trust_remote_code=False)
    except Exception as error:  # config classes check their values in their own ways
        why = next(iter(reason(error).splitlines()), repr(error))
        raise UserError(f"config.json of {source.name!r} cannot be read: {why}") from None


def most_tokens(config: Any) -> tuple[int | None, str]:
    """The longest sequence that the model reads as it was made for, None without a limit, and which value says so.

    A rotary embedding that depends on length changes every token of a longer sequence, the early ones too. It is exact
    up to the length at which it begins to.
    """
    text = config.get_text_config()
    limit, key = getattr(text, "max_position_embeddings", None), "max_position_embeddings"
    rope = getattr(text, "rope_parameters", None) or {}
    for its in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        original = its.get("original_max_position_embeddings")
        if original is None:
            continue
        if its.get("rope_type") == "longrope" and (limit is None or original < limit):
            limit, key = original, "original_max_position_embeddings, beyond which longrope rotates by other angles"
        elif its.get("rope_type") == "yarn" and limit is not None:
            limit = max(limit, round(original * its.get("factor", 1.0)))
    return limit, key


def check_length(config: Any, *, prompt_tokens: int, completion_tokens: int) -> None:
    """Raises UserError where the longest prompt and completion are more than the model reads."""
    limit, key = most_tokens(config)
    if limit is not None and prompt_tokens + completion_tokens > limit:
        raise UserError(
            f"the longest prompt has {prompt_tokens} tokens and rollout.max_completion_tokens is {completion_tokens}, "
            f"but the model reads at most {limit} in total ({key}): lower rollout.max_completion_tokens or "
            "prepare.max_prompt_tokens, or choose a model for longer texts"
        )


def check_ids(config: Any, tokenizer: Any, ids: Iterable[int]) -> None:
    """Raises UserError where one of the tokens `ids` has no embedding in the model."""
    rows, largest = config.get_text_config().vocab_size, max(ids, default=0)
    if largest >= rows:
        raise UserError(
            f"the tokenizer's token {tokenizer.convert_ids_to_tokens(largest)!r} has the id {largest}, but the model "
            f"has embeddings for {rows} tokens only (the tokenizer knows {len(tokenizer)}): use the tokenizer that "
            "belongs to the model, or leave the token out of model.template and the data"
        )
