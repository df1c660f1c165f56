"""Find the model named by --model: the last of the pipeline, a folder of weights or of an adapter, any source."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.chat import CHAT_TEMPLATE
from rlvr.config import Config
from rlvr.model.chat_template import fix_template
from rlvr.model.policy import has_weights, load_tokenizer
from rlvr.model.source import Source, open_source
from rlvr.model.weights import misfit
from rlvr.problems import tables
from rlvr.runtime.files import read_text
from rlvr.runtime.messages import warn
from rlvr.stages.provenance import CARD
from rlvr.types import UserError

TRAINED = (Path("models/grpo"), Path("models/sft"))  # the last stage first
BASE = "base"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model: `source`, with the weights in `start` loaded if any. `cfg` says whether those are an adapter.

    `tokenizer` was loaded from `tokenizer_folder` and has a chat template.
    """

    name: str
    cfg: Config
    source: Source
    start: Path | None
    tokenizer: Any
    tokenizer_folder: Path


def find(cfg: Config, model: str | None, folder: Path) -> Checkpoint:
    """The model that `model` names, or the last one trained for None. Raises UserError.

    `base` is the prepared model before any training. Files that must be unpacked or added go to `folder`.
    """
    if model is None:
        trained = next((path for path in TRAINED if has_weights(path)), None)
        model = BASE if trained is None else str(trained)
    path = Path(model)
    if model == BASE and not path.exists():
        return _trained(cfg, BASE, None)
    if not path.is_dir() and path in TRAINED:
        raise UserError(f"--model {model}: its stage has not run yet; run `snakemake --cores 1`")
    if not path.is_dir():
        source, tokenizer = _open(cfg, model, cfg.model.revision if model == cfg.model.source else None, folder)
        return Checkpoint(model, _with_model(cfg, adapter="none"), source, None, tokenizer, folder)
    if not has_weights(path):
        raise UserError(f"--model {model}: no *.safetensors file in this folder; did its stage finish?")
    return _adapter(cfg, path, folder) if (path / ADAPTER).is_file() else _weights(cfg, path)


def _trained(cfg: Config, name: str, start: Path | None) -> Checkpoint:
    return Checkpoint(name, cfg, _prepared_source(), start, load_tokenizer(tables.BASE), tables.BASE)


def _adapter(cfg: Config, path: Path, folder: Path) -> Checkpoint:
    """An adapter on the base model named in its config: the prepared model or another."""
    try:
        about = json.loads(read_text(path / ADAPTER))
        lora = cfg.model.lora.model_copy(update={"rank": about["r"], "alpha": about["lora_alpha"]})
        named = about["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path / ADAPTER} is not the config of an adapter: {type(error).__name__} {error}") from None
    cfg = _with_model(cfg, adapter="lora", lora=lora)
    is_of_prepared = not named or named == str(tables.BASE)
    if is_of_prepared or (tables.BASE.is_dir() and named == _prepared_source().name):
        checkpoint = _trained(cfg, str(path), path)
    else:
        source, tokenizer = _open(cfg, named, about.get("revision"), folder)
        checkpoint = Checkpoint(str(path), cfg, source, path, tokenizer, folder)
    _check_base(checkpoint, path, is_of_prepared=is_of_prepared)
    return checkpoint


def _check_base(checkpoint: Checkpoint, path: Path, *, is_of_prepared: bool) -> None:
    """Raise UserError for an adapter of another model than the one that it is to be put on."""
    trained_on, base = _source_in(path), checkpoint.source.name
    prepared = _source_in(tables.FOLDER) if is_of_prepared else None
    weights = path / "adapter_model.safetensors"
    why = misfit(weights, checkpoint.source) if weights.is_file() else None
    if why is None:
        if prepared and trained_on and trained_on != prepared:
            warn(f"{path} was trained on {trained_on} and is put on {prepared} in {base}: is that the same model?")
        return
    remedy = f"name the model that it was trained on as base_model_name_or_path in {path / ADAPTER}"
    if is_of_prepared:
        remedy = "set model.source to the model that it was trained on and run `rlvr prepare`, or train again"
    raise UserError(
        f"--model {path}: this is an adapter of {trained_on or 'another model'}, and cannot be put on "
        f"{f'{prepared} in {base}' if prepared else base} ({why}); {remedy}"
    )


def _source_in(folder: Path) -> str | None:
    """The model.source that the card of a stage's output has; None without a card."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        source = json.loads((folder / CARD).read_bytes())["params"]["model"]["source"]
        return source if isinstance(source, str) else None
    return None


def _weights(cfg: Config, path: Path) -> Checkpoint:
    """A whole model. One from training comes without a tokenizer and takes the prepared one."""
    if not (path / "config.json").is_file():
        raise UserError(
            f"--model {path} has no config.json: give a folder in transformers' layout, from save_pretrained"
        )
    has_tokenizer = (path / "tokenizer_config.json").is_file()
    if not has_tokenizer:
        _prepared_source()
    place = path if has_tokenizer else tables.BASE
    tokenizer = load_tokenizer(place)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    fix_template(tokenizer, cfg.model)
    cfg = _with_model(cfg, adapter="none")
    return Checkpoint(str(path), cfg, Source(str(path), None, None), None, tokenizer, place)


def _open(cfg: Config, name: str, revision: str | None, folder: Path) -> tuple[Source, Any]:
    """A model and its tokenizer, named as in `model.source`: a hub model, a GGUF file or a folder."""
    try:
        source, tokenizer = open_source(name, revision, folder, dtype=cfg.compute.dtype)
    except UserError as error:
        raise UserError(f"--model {name}, read as model.source: {error}") from None
    fix_template(tokenizer, cfg.model)
    return source, tokenizer


def _prepared_source() -> Source:
    if not tables.BASE.is_dir():
        raise UserError(
            "data/prepared does not exist: run `dvc repro prepare`, or `snakemake --cores 1` for the whole pipeline"
        )
    return Source.read(tables.BASE)


def _with_model(cfg: Config, **changes: Any) -> Config:
    return cfg.model_copy(update={"model": cfg.model.model_copy(update=changes)})
