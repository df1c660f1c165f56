"""Presets: one small file for each model and task, written over params.yaml with its comments kept.

presets/default.yaml holds every setting that another preset changes, with its default. Writing a preset writes the
default first, so two presets never mix; settings that no preset changes keep the user's values. `rewards` is replaced
as a whole: a rubric is one thing. So are the filters of a table and the variables of a chat template.
"""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from rlvr.runtime.files import read_text
from rlvr.types import UserError

FOLDER = Path("presets")
DEFAULT = "default"
FITS = "Fits on"  # begins the line that says which card a preset needs
REPLACED = ("rewards", "filters", "chat_template_kwargs")

Settings = MutableMapping[str, Any]


def names(folder: Path = FOLDER) -> dict[str, str]:
    """Every preset with what its first comment line says, and which card it needs."""
    heads = {path.stem: header(path.stem, folder) for path in sorted(folder.glob("*.yaml"))}
    return {
        name: " ".join([first, *(line for line in rest if line.startswith(FITS))])
        for name, (first, *rest) in heads.items()
    }


def header(name: str, folder: Path = FOLDER) -> list[str]:
    """The comment lines on top of a preset: what it does, then what it needs. Raises UserError for an unknown name."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = [path.stem for path in sorted(folder.glob("*.yaml"))]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"unknown preset {name!r}; known: {', '.join(known) or 'none here'}{hint}")
    lines = []
    for line in read_text(path).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines or [""]


def with_preset(text: str, name: str, folder: Path = FOLDER) -> str:
    """The text of params.yaml with the preset's settings; comments and order stay. Raises UserError."""
    header(name, folder)
    for overlay in dict.fromkeys((DEFAULT, name)):
        text = with_overlay(text, read_text(folder / f"{overlay}.yaml"))
    return text


def with_overlay(text: str, overlay: str) -> str:
    """The text of params.yaml with the values of `overlay` written over its own. Whether they are settings at all is
    for check_config to say. Raises UserError."""
    params = _yaml().load(text)
    if not isinstance(params, dict):
        raise UserError("params.yaml must be a mapping of sections; `git checkout params.yaml` brings it back")
    _write_over(params, _yaml().load(overlay) or {})
    stream = io.StringIO()
    _yaml().dump(params, stream)
    return stream.getvalue()


def changes(before: str, after: str) -> list[str]:
    """One line for every setting in which two texts of params.yaml differ: `key: old -> new`."""
    old, new = (dict(leaves(YAML(typ="safe", pure=True).load(text))) for text in (before, after))
    lines = []
    for key in [*new, *(key for key in old if key not in new)]:
        if key not in old:
            lines.append(f"{key}: added, {json.dumps(new[key])}")
        elif key not in new:
            lines.append(f"{key}: removed, was {json.dumps(old[key])}")
        elif old[key] != new[key]:
            lines.append(f"{key}: {json.dumps(old[key])} -> {json.dumps(new[key])}")
    return lines


class _Representer(RoundTripRepresenter):
    """Writes null, where ruamel.yaml would leave the place empty."""


_Representer.add_representer(type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null"))


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096  # a rubric's line is not broken
    return yaml


def _write_over(params: Settings, values: Settings) -> None:
    """Put `values` into `params`; a value that is the same keeps how it was written."""
    for key, value in values.items():
        if _is_section(key, value, params.get(key)):
            _write_over(params[key], value)
        elif key not in params or params[key] != value:
            params[key] = value


def _is_section(key: str, *values: Any) -> bool:
    return key not in REPLACED and all(isinstance(value, dict) for value in values)


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a parsed params.yaml: its dotted key and its value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
