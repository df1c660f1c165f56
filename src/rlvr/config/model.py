"""Sections compute and model."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rlvr.chat import tags_of
from rlvr.config.base import Name, Positive, Section, Share

OWN_VARIABLES = ("messages", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token", "tools")
OUTPUTS = ("models", "data/prepared")  # of dvc.yaml, where a model could lie


class Compute(Section):
    seed: Annotated[int, Field(ge=0)]
    threads: Positive
    device: Literal["auto", "cpu", "cuda", "mps"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]


class Scratch(Section):
    architecture: Literal["llama", "qwen3"]
    hidden_size: Positive
    layers: Positive
    heads: Positive
    kv_heads: Positive
    intermediate_size: Positive

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_size % self.heads or self.hidden_size // self.heads < 32 or self.hidden_size // self.heads % 2:
            raise ValueError(
                f"hidden_size / heads = {self.hidden_size / self.heads:g} must be an even whole number of at least 32; "
                f"for hidden_size {self.hidden_size} use heads {max(1, self.hidden_size // 32)} or fewer"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


class Lora(Section):
    rank: Positive
    alpha: Positive


def _iso_date(value: Any) -> Any:
    text = value.isoformat() if isinstance(value, datetime.date) else value
    try:
        datetime.date.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is no date such as 2026-01-31") from None
    return text


class Template(Section):
    tags: str | dict[str, str]
    system_prompt: str | None
    open_in_prompt: bool
    date: Annotated[str, BeforeValidator(_iso_date)]

    @model_validator(mode="after")
    def _tags_exist(self) -> Self:
        tags_of(self)
        return self


class Model(Section):
    source: Name
    revision: str | None
    scratch: Scratch
    adapter: Literal["none", "lora"]
    quantization: Literal["none", "nf4", "nf4-dynamic"]
    dynamic_share: Share
    lora: Lora
    template: Template
    chat_template_kwargs: dict[str, bool | int | float | str | list[str] | None]

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in values:
            if not name.isidentifier() or name in OWN_VARIABLES:
                raise ValueError(
                    f"{name!r} is not a variable that can be set for a chat template; give one that the model's "
                    "template reads, such as enable_thinking: false"
                )
        return values

    @model_validator(mode="after")
    def _is_input(self) -> Self:
        path = Path(self.source).resolve()
        if folders := [folder for folder in OUTPUTS if Path(folder).resolve() in (path, *path.parents)]:
            raise ValueError(
                f"source {self.source!r} is in {folders[0]}, which the pipeline writes and removes before it writes it "
                f"again: copy it, as in cp -r {self.source} data/raw/first, and use data/raw/first"
            )
        return self

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.quantization != "none" and self.adapter == "none":
            raise ValueError(
                f"quantization {self.quantization} freezes the weights in 4 bits, so an adapter has to be trained: "
                "set adapter to lora, or quantization to none"
            )
        return self
