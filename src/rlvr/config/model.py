"""Sections compute and model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlvr.chat import tags_of
from rlvr.config.base import Name, Positive, Section, Share


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
                f"for hidden_size {self.hidden_size} take heads {max(1, self.hidden_size // 32)} or fewer"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


class Lora(Section):
    rank: Positive
    alpha: Positive


class Template(Section):
    tags: str | dict[str, str]
    system_prompt: str | None
    open_in_prompt: bool

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

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.quantization != "none" and self.adapter == "none":
            raise ValueError(
                f"quantization {self.quantization} freezes the weights in 4 bits, so an adapter has to be trained: "
                "set adapter to lora, or quantization to none"
            )
        return self
