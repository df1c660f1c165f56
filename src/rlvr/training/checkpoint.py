"""One checkpoint: written whole or not at all, and believed only where every file holds what was written.

`state.json` is written last. It has the step, what was noted, the SHA-256 of the two other files, and one of itself.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvr.runtime.files import file_sha256, json_sha256

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.pt", "state.json"

State = tuple[dict[str, Tensor], dict[str, Any]]  # of what is trained, and of the optimizer


class Damaged(Exception):
    """A checkpoint is not what was written; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """The state before `step`."""

    step: int
    state: State
    notes: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `folder`, which appears when it is whole and on the disk. One that exists stays as it is."""
    if folder.exists():  # it is the same: the state before a step follows from what made the run
        return
    writing = folder.with_name("writing")
    shutil.rmtree(writing, ignore_errors=True)
    try:
        _write(writing, checkpoint)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    writing.rename(folder)
    flush(folder.parent)


def read(folder: Path) -> Checkpoint:
    """Raises Damaged."""
    saved = _content(folder / STATE)
    for name, expected in saved["sha256"].items():
        try:
            digest = file_sha256(folder / name)
        except OSError as error:
            raise Damaged(f"{folder / name} cannot be read: {error.strerror}") from None
        if digest != expected:
            raise Damaged(f"{folder / name} is not what was written")
    state = load_file(folder / WEIGHTS), torch.load(folder / OPTIMIZER, weights_only=True)
    return Checkpoint(saved["step"], state, saved["notes"])


def flush(path: Path) -> None:
    """Return when what was written to a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    weights, of_optimizer = checkpoint.state
    save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, folder / WEIGHTS)
    torch.save(of_optimizer, folder / OPTIMIZER)
    content = {
        "step": checkpoint.step,
        "notes": checkpoint.notes,
        "sha256": {name: file_sha256(folder / name) for name in (WEIGHTS, OPTIMIZER)},
    }
    saved = {"content": content, "sha256": json_sha256(content)}
    (folder / STATE).write_text(json.dumps(saved), encoding="utf-8")
    for file in folder.iterdir():
        flush(file)


def _content(file: Path) -> dict[str, Any]:
    try:
        saved = json.loads(file.read_bytes())
        content: dict[str, Any] = saved["content"]
        is_whole = json_sha256(content) == saved["sha256"]
    except OSError as error:
        raise Damaged(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        is_whole = False
    if not is_whole:
        raise Damaged(f"{file} is not what was written")
    return content
