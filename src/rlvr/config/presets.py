"""Presets: one small file for each model and task, written over params.yaml with its comments kept.

A preset holds only what differs from presets/default.yaml, so that applying it gives the same settings whatever
params.yaml said before. `rewards` is replaced as a whole: a rubric is one thing.
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

from rlvr.types import UserError

FOLDER = Path("presets")
DEFAULT = "default"
FITS = "Fits on"  # begins the line that says which card a preset needs
REPLACED = ("rewards",)

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
        raise UserError(f"there is no preset {name!r}; there are {', '.join(known) or 'none here'}{hint}")
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines or [""]


def with_preset(text: str, name: str, folder: Path = FOLDER) -> str:
    """The text of params.yaml with the preset's settings; comments and order stay. Raises UserError."""
    header(name, folder)
    values = _yaml().load((folder / f"{DEFAULT}.yaml").read_text())
    if name != DEFAULT:
        _write_over(values, _yaml().load((folder / f"{name}.yaml").read_text()), f"presets/{name}.yaml")
    params = _yaml().load(text)
    if not isinstance(params, dict):
        raise UserError("params.yaml must be a mapping of sections; `git checkout params.yaml` brings it back")
    _take(params, values)
    stream = io.StringIO()
    _yaml().dump(params, stream)
    return stream.getvalue()


def changes(before: str, after: str) -> list[str]:
    """One line for every setting in which two texts of params.yaml differ: `key: old -> new`."""
    old, new = (dict(_leaves(YAML(typ="safe", pure=True).load(text))) for text in (before, after))
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


def _write_over(values: Settings, overlay: Settings, where: str) -> None:
    """Put each value of `overlay` into `values`, which must have its key."""
    for key, value in overlay.items():
        if key not in values:
            raise UserError(f"{where}: {key} is not a setting of presets/{DEFAULT}.yaml")
        if _is_section(key, value, values[key]):
            _write_over(values[key], value, where)
        else:
            values[key] = value


def _take(params: Settings, values: Settings) -> None:
    """Make `params` hold exactly `values`; a value that is the same keeps how it was written."""
    for key in [key for key in params if key not in values]:
        del params[key]
    for key, value in values.items():
        if _is_section(key, value, params.get(key)):
            _take(params[key], value)
        elif key not in params or params[key] != value:
            params[key] = value


def _is_section(key: str, *values: Any) -> bool:
    return key not in REPLACED and all(isinstance(value, dict) for value in values)


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
