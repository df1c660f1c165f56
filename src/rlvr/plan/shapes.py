"""The shape of a model: the numbers of its config from which all sizes follow."""
# D hidden · Q query width, heads × head size · K key width · F feed-forward · V vocabulary

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlvr.runtime.files import read_text
from rlvr.types import UserError

FOLDER = Path("presets/shapes")
FROM_ELSEWHERE = Path(__file__).parents[3] / FOLDER  # of the project that this source belongs to
HUB_SECONDS = 10.0
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
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
    full_every: int | None = None  # of so many layers with a window, one sees all tokens


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "phi3": Family(is_fused=True),
    "gemma3_text": Family(qk_norm=True, norms_per_layer=4, full_every=6),
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
    """A model's sizes. `published_parameters` is the count on its hub page, None where nobody published one.

    `is_recurrent`: some layers carry a state in place of keys.
    """

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
    is_recurrent: bool = False

    @property
    def family(self) -> Family:
        return FAMILIES.get(self.model_type, FAMILIES["llama"])

    @property
    def is_known(self) -> bool:
        """Whether the planner knows this model type; others are taken for a Llama."""
        return self.model_type in FAMILIES

    @property
    def windowed_layers(self) -> int:
        """Layers whose tokens see the last `sliding_window` only."""
        if self.sliding_window is None:
            return 0
        every = self.family.full_every
        return self.num_hidden_layers - (self.num_hidden_layers // every if every else 0)

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def linears(self) -> tuple[LinearShape, ...]:
        """The linear layers of one decoder layer."""
        return self._linears

    @cached_property
    def _linears(self) -> tuple[LinearShape, ...]:
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
    """The shape called `name`: one of the project's, its hub name, a config.json, or a folder with one.

    The organization and a tuning's suffix (-Instruct, -it, -Base) do not matter for the project's own. The config of
    another hub name comes from the local cache or the hub. Raises UserError with the nearest name otherwise.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.json").is_file():
        return read_shape(path / "config.json")
    if path.suffix == ".json" and path.is_file():
        return read_shape(path)
    shapes = folder if folder.is_dir() else FROM_ELSEWHERE
    known = {path.stem.lower(): path for path in sorted(shapes.glob("*.json"))}
    query = _plain(name)
    if query in known:
        return read_shape(known[query])
    if HUB_NAME.fullmatch(name) and not path.exists():
        return _shape_of_hub(name)
    near = difflib.get_close_matches(query, known, n=1)
    hint = f"; did you mean {known[near[0]].stem}?" if near else ""
    listed = ", ".join(path.stem for path in known.values()) or f"none in {folder}"
    raise UserError(
        f"unknown shape {name!r}, and no {name}/config.json; known: {listed}. Others: a hub name with its owner "
        f"(Qwen/Qwen3-8B), a folder with a config.json, or that file{hint}"
    )


def _shape_of_hub(name: str) -> Shape:
    """The shape of a hub model by its config.json alone: the one in the local cache, else the hub's."""
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]  # noqa: PLC0415

    short = name.partition("/")[2]
    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return replace(read_shape(Path(cached)), name=short)
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        url = hf_hub_url(name, "config.json")
        answer = get_session().get(url, headers=build_hf_headers(), timeout=HUB_SECONDS, follow_redirects=True)
        answer.raise_for_status()
        config = answer.json()
    except Exception as error:  # of the session's own library, whose kinds change with its versions
        raise UserError(
            f"config.json of {name} is not in the local cache and the hub did not give it ({error}). Check the name "
            "and the connection (a gated model needs `hf auth login`), or add the shape: save the model's config.json "
            f"as presets/shapes/{short}.json, or name the file: rlvr plan path/to/config.json"
        ) from None
    return shape_of(_of_text(config, name), name=short, where=f"config.json of {name}")


def read_shape(path: Path) -> Shape:
    """The shape in a file of presets/shapes or in a model's config.json. Raises UserError."""
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    name = path.parent.resolve().name if path.name == "config.json" else path.stem
    return shape_of(_of_text(values, str(path)), name=name, where=str(path))


def _of_text(config: Any, where: str) -> dict[str, Any]:
    """The part of a model's config that is of its language model."""
    text = config.get("text_config", config) if isinstance(config, dict) else None
    if not isinstance(text, dict):
        raise UserError(f"{where} must hold an object with the fields of a model's config")
    return text


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
        is_recurrent="linear_attention" in (config.get("layer_types") or ()),
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
