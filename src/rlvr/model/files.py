"""What the files of a model must be before anything is prepared for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlvr.runtime.files import check_pulled, read_text
from rlvr.types import UserError

ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights. Raises UserError where the folder holds an adapter, or no whole model."""
    where = f"model.source {str(folder)!r}"
    if (folder / ADAPTER).is_file():
        raise UserError(f"{where} is an adapter, not a whole model: {_merging(folder)}; or use its base model")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{where} has no *.safetensors file: only safetensors are read, since pickled weights can run code; "
            "convert them with save_pretrained"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{where} has no config.json: give a folder in transformers' layout, from save_pretrained")
    if (folder / INDEX).is_file():
        named = set(_json(folder / INDEX).get("weight_map", {}).values())
        if missing := sorted(named - {file.name for file in files}):
            raise UserError(f"{where} is not whole: {INDEX} names {missing[0]}, which is missing; download it again")
    for file in files:
        check_pulled(file)
        _check_whole(file)
    return files


def gguf_texts(path: Path) -> dict[str, str]:
    """What a GGUF file says of its kind. Raises UserError where it is not whole, or one of several pieces."""
    from gguf import GGUFReader  # noqa: PLC0415

    try:
        reader = GGUFReader(path)
    except Exception as error:  # it reads what a damaged file has in place of lengths and types
        raise UserError(
            f"model.source: {path.name} cannot be read as a GGUF model ({error}); it has {path.stat().st_size:,} "
            "bytes: is it whole? Download it again"
        ) from None
    fields = {key: reader.get_field(key) for key in ("general.architecture", "tokenizer.ggml.pre", "split.count")}
    about = {key: str(field.contents()) for key, field in fields.items() if field is not None}
    if int(about.get("split.count", 1)) > 1:
        raise UserError(
            f"model.source: {path.name} is one of {about['split.count']} pieces: put them together with "
            f"`llama-gguf-split --merge {path.name} whole.gguf`, on the first of them"
        )
    return about


def reason(error: Exception) -> str:
    """What a library's error says; of one that was not written for a reader, its kind and first line.

    transformers advises to let a model's own code run, which is never passed on.
    """
    if "trust_remote_code" in str(error):
        return "its files name their own code (auto_map), which is never run: use a model whose class transformers has"
    if isinstance(error, (OSError, ValueError)):
        return str(error)
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _merging(folder: Path) -> str:
    base = _json(folder / ADAPTER).get("base_model_name_or_path")
    return (
        f'merge it into its base model ({base}) with python -c "from peft import AutoPeftModelForCausalLM as M; '
        f"M.from_pretrained('{folder}').merge_and_unload().save_pretrained('{folder}-merged')\", copy the tokenizer's "
        f"files there and use {folder}-merged"
    )


def _check_whole(file: Path) -> None:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(file, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} holds no weights that can be read ({error}); it has {file.stat().st_size:,} bytes: is it whole? "
            "Download it again"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold an object")
    return values
