"""The GPU suite: every part in its own process, a table at the end, and all figures in one file.

    make gpu                                      # on an NVIDIA card, at most ten minutes
    python benchmarks/gpu/suite.py                # the same with the Python of an image that has torch
    python benchmarks/gpu/suite.py link head      # some parts
    python benchmarks/gpu/suite.py --tiny         # the same code, small, on any machine

A part that fails or takes too long does not stop the others. The file is benchmarks/results/DEVICE/DATE.json,
and DATE-2.json when there is one of that day.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from typing import Any

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
MINUTES = 10.0
PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "safetensors", "numpy", "psutil", "pytest")
LOG_LETTERS = 3000  # of what a part that failed printed last


@dataclass(frozen=True)
class Part:
    """A script in this folder, its arguments, and how long it may take."""

    script: str
    arguments: tuple[str, ...]
    limit_seconds: float


PARTS = {
    "link": Part("link.py", (), 60),
    "correctness": Part("correctness.py", (), 180),
    "head": Part("head.py", (), 120),
    "layer": Part("layer.py", (), 60),
    "stack": Part("updates.py", ("stack",), 240),
    "usual": Part("usual.py", (), 120),
    "long": Part("updates.py", ("long",), 150),
    "small": Part("updates.py", ("small",), 90),
    "grid": Part("updates.py", ("grid",), 90),
}


def run_part(name: str, *, is_tiny: bool, limit_seconds: float) -> dict[str, Any]:
    """Figures of a part, and how it ended. What it wrote before it failed or was stopped counts."""
    part = PARTS[name]
    outcome = {"part": name, "outcome": "not begun: out of time", "seconds": 0.0, "figures": []}
    if limit_seconds < 1.0:
        return outcome
    with tempfile.TemporaryDirectory() as place:
        out, log = Path(place) / "figures.jsonl", Path(place) / "log"
        command = [sys.executable, str(HERE / part.script), *part.arguments, "--out", str(out)]
        started = time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [*command, *(["--tiny"] if is_tiny else [])],
                stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": python_path()},
                cwd=ROOT, start_new_session=True,
            )  # fmt: skip
            outcome["outcome"] = ended(process, min(limit_seconds, part.limit_seconds))
        outcome["seconds"] = round(time.monotonic() - started, 1)
        if out.exists():
            outcome["figures"] = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        if outcome["outcome"] != "done":
            outcome["log"] = log.read_text(errors="replace", encoding="utf-8")[-LOG_LETTERS:]
    return outcome


def ended(process: subprocess.Popen[bytes], limit_seconds: float) -> str:
    """Wait for the part, or end it and all that it started."""
    try:
        code = process.wait(timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"stopped after {limit_seconds:.0f} s"
    return "done" if code == 0 else f"failed with exit code {code}"


def python_path() -> str:
    """So that nothing needs to be installed."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT / "src"), *([before] if before else [])])


def table(parts: Sequence[dict[str, Any]]) -> str:
    """Part, figure, value, target, met: a line for each figure that has a unit, and for each part that did not end."""
    rows = [("part", "figure", "value", "target", "met")]
    for part in parts:
        for line in part["figures"]:
            if "is_met" in line:
                value = "none" if line["value"] is None else f"{line['value']:.4g} {line['unit']}".strip()
                met = {True: "yes", False: "NO", None: "–"}[line["is_met"]]
                rows.append((part["part"], line["what"], value, line["target"], met))
        if part["outcome"] != "done":
            rows.append((part["part"], part["outcome"], "", "", "NO"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def write(folder: Path, about: dict[str, Any], parts: Sequence[dict[str, Any]]) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")
    today = date.today().isoformat()
    names = (f"{today}{number}.json" for number in chain([""], (f"-{n}" for n in count(2))))
    path = next(path for name in names if not (path := folder / slug / name).exists())
    path.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "benchmarks/gpu/suite.py", *sys.argv[1:]])
    path.write_text(
        json.dumps({"command": command, **about, "parts": parts}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a part did not end well, else 0: a target that is missed is a figure, not an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on any machine")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--results", type=Path, help="folder for the figures, in miniature none without")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if absent := [name for name in PACKAGES if find_spec(name) is None]:
        parser.error(f"not installed next to this Python: {', '.join(absent)}; pip install {' '.join(absent)}")
    described = subprocess.run(
        [sys.executable, str(HERE / "figures.py")], env=os.environ | {"PYTHONPATH": python_path()}, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    about = json.loads(described.stdout)
    if not about["is_cuda"] and not options.tiny:
        parser.error("torch finds no NVIDIA GPU here; --tiny runs the same code, small, on a CPU")
    end = time.monotonic() + 60 * options.minutes
    parts = []
    for name in options.only or PARTS:
        parts.append(run_part(name, is_tiny=options.tiny, limit_seconds=end - time.monotonic()))
        print(f"{name}: {parts[-1]['outcome']}, {parts[-1]['seconds']} s", flush=True)
        print(parts[-1].get("log", ""), end="", flush=True)
    folder = options.results or (None if options.tiny else RESULTS)
    path = None if folder is None else write(folder, about, parts)
    print(f"\n{about['device']}, torch {about['versions']['torch']}\n{table(parts)}")
    if path is not None:
        print(f"\n{path}")
    return int(any(part["outcome"] != "done" for part in parts))


if __name__ == "__main__":
    sys.exit(main())
