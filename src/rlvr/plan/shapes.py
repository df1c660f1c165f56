"""The shape of a model: the numbers of its config from which all sizes follow."""
# D hidden · Q query width, heads × head size · K key width · F feed-forward · V vocabulary

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.types import UserError

FOLDER = Path("presets/shapes")
REQUIRED = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
TUNINGS = ("-instruct", "-base", "-it", "-chat")  # the same shape as the model without


@dataclass(frozen=True)
class Family:
    """What a model type fixes and its config does not say."""

    qkv_bias: bool = False
    qk_norm: bool = False
    norms_per_layer: int = 2
    is_fused: bool = False  # one projection for q, k and v, and one for gate and up


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "phi3": Family(is_fused=True),
    "gemma3_text": Family(qk_norm=True, norms_per_layer=4),
}


@dataclass(frozen=True)
class LinearShape:
    """One linear layer of a decoder layer."""

    name: str
    inputs: int
    outputs: int
    has_bias: bool

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shape:
    """A model's sizes. `published_parameters` is the count on its hub page, None where nobody published one."""

    name: str
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    max_position_embeddings: int
    sliding_window: int | None
    attention_bias: bool
    mlp_bias: bool
    source: str | None
    revision: str | None
    published_parameters: int | None

    @property
    def family(self) -> Family:
        return FAMILIES.get(self.model_type, FAMILIES["llama"])

    @property
    def is_known(self) -> bool:
        """Whether the planner knows this model type; others are taken for a Llama."""
        return self.model_type in FAMILIES

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def linears(self) -> tuple[LinearShape, ...]:
        """The linear layers of one decoder layer."""
        D, Q, K, F = self.hidden_size, self.query_width, self.key_width, self.intermediate_size
        qkv_bias = self.family.qkv_bias or self.attention_bias
        down = (LinearShape("o_proj", Q, D, self.attention_bias), LinearShape("down_proj", F, D, self.mlp_bias))
        if self.family.is_fused:
            return (
                LinearShape("qkv_proj", D, Q + 2 * K, qkv_bias),
                LinearShape("gate_up_proj", D, 2 * F, self.mlp_bias),
                *down,
            )
        qkv = tuple(LinearShape(f"{x}_proj", D, width, qkv_bias) for x, width in (("q", Q), ("k", K), ("v", K)))
        return *qkv, *(LinearShape(f"{x}_proj", D, F, self.mlp_bias) for x in ("gate", "up")), *down

    def linear_weights(self) -> int:
        """Weights of all linear layers but the head: what NF4 makes smaller and LoRA adapts."""
        return self.num_hidden_layers * sum(linear.weights for linear in self.linears())

    def embedding_weights(self) -> int:
        """Weights of the embedding and of the head; once where they are tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    def vector_weights(self) -> int:
        """Norms and biases."""
        biases = sum(linear.outputs for linear in self.linears() if linear.has_bias)
        norms = self.family.norms_per_layer * self.hidden_size + (2 * self.head_dim if self.family.qk_norm else 0)
        return self.num_hidden_layers * (biases + norms) + self.hidden_size

    def parameters(self) -> int:
        return self.linear_weights() + self.embedding_weights() + self.vector_weights()

    def adapter_parameters(self, rank: int) -> int:
        """Weights of a LoRA adapter on every linear layer: Σ rank·(inputs + outputs)."""
        return self.num_hidden_layers * sum(rank * (linear.inputs + linear.outputs) for linear in self.linears())

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Bytes of keys and values of one token: 2 · layers · key width · bytes."""
        return 2 * self.num_hidden_layers * self.key_width * dtype_bytes


def names(folder: Path = FOLDER) -> list[str]:
    """The shapes that are in the project, smallest model first."""
    return [shape.name for shape in sorted(all_shapes(folder), key=Shape.parameters)]


def all_shapes(folder: Path = FOLDER) -> list[Shape]:
    return [read_shape(path) for path in folder.glob("*.json")]


def find_shape(name: str, folder: Path = FOLDER) -> Shape:
    """The shape called `name`: one of the project's, its hub name, or a folder with a config.json.

    The organization and a tuning's suffix (-Instruct, -it, -Base) do not matter. Raises UserError with the nearest
    name otherwise.
    """
    if (Path(name) / "config.json").is_file():
        return read_shape(Path(name) / "config.json")
    known = {path.stem.lower(): path for path in sorted(folder.glob("*.json"))}
    query = _plain(name)
    if query in known:
        return read_shape(known[query])
    near = difflib.get_close_matches(query, known, n=1)
    hint = f"; did you mean {known[near[0]].stem}?" if near else ""
    listed = ", ".join(path.stem for path in known.values()) or f"none in {folder}"
    raise UserError(f"there is no shape {name!r} and no {name}/config.json; there are {listed}{hint}")


def read_shape(path: Path) -> Shape:
    """The shape in a file of presets/shapes or in a model's config.json. Raises UserError."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold an object with the fields of a model's config")
    name = path.parent.resolve().name if path.name == "config.json" else path.stem
    return shape_of(values.get("text_config", values), name=name, where=str(path))


def shape_of(config: Mapping[str, Any], *, name: str, where: str) -> Shape:
    """The shape in the values of a transformers config. Raises UserError naming the key that is missing or wrong."""
    for key in REQUIRED:
        if key not in config:
            raise UserError(f"{where}: {key} is missing; it must hold the fields of a transformers config")
    heads, hidden = _count(config, "num_attention_heads", where), _count(config, "hidden_size", where)
    optional = {key: config[key] for key in ("num_key_value_heads", "head_dim") if config.get(key) is not None}
    filled = {"num_key_value_heads": heads, "head_dim": hidden // heads} | optional
    uses_window = config.get("use_sliding_window", True)
    return Shape(
        name=name,
        model_type=str(config["model_type"]),
        hidden_size=hidden,
        num_hidden_layers=_count(config, "num_hidden_layers", where),
        num_attention_heads=heads,
        num_key_value_heads=_count(filled, "num_key_value_heads", where),
        head_dim=_count(filled, "head_dim", where),
        intermediate_size=_count(config, "intermediate_size", where),
        vocab_size=_count(config, "vocab_size", where),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", config["model_type"] == "gemma3_text")),
        max_position_embeddings=_count(config, "max_position_embeddings", where),
        sliding_window=_count(config, "sliding_window", where)
        if uses_window and config.get("sliding_window")
        else None,
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        source=config.get("source"),
        revision=config.get("revision"),
        published_parameters=config.get("parameters"),
    )


def _count(values: Mapping[str, Any], key: str, where: str) -> int:
    value = values[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: {key} is {value!r}; it must be a whole number above 0")
    return value


def _plain(name: str) -> str:
    plain = name.rsplit("/", 1)[-1].lower().removeprefix("meta-")
    for tuning in TUNINGS:
        plain = plain.removesuffix(tuning)
    return plain
