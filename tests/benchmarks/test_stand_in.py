"""Updates of the GPU suite on a card that computes nothing: torch's CUDA build runs them, in the memory of the plan.

`make null-gpu` makes the environment; gigabytes of CUDA are no part of the tests' own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "benchmarks/gpu/stand_in"
PYTHON = ROOT / ".venv-cuda/bin/python"
WITHIN = 0.03
SECONDS = 600

Environment = Mapping[str, str]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    if not PYTHON.exists():
        pytest.skip("needs torch's CUDA build in an environment of its own: make null-gpu")
    headers = next((ROOT / ".venv-cuda").glob("lib/python*/site-packages/nvidia/cu*/include/cuda_runtime_api.h"), None)
    if headers is None:
        pytest.skip("the package index has torch for CPUs only, and the stand-in needs the CUDA build")
    library = tmp_path_factory.mktemp("card") / "libcuda.so.1"
    compiler = ["cc", "-O1", "-w", "-shared", "-fPIC", f"-I{headers.parent}", "-o", str(library)]
    subprocess.run([*compiler, str(STAND_IN / "card.c")], check=True)
    path = os.pathsep.join(str(ROOT / folder) for folder in ("src", "tests", "benchmarks/gpu", STAND_IN))
    preloaded = {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(library.parent)}
    return os.environ | preloaded | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def figures(card: Environment, script: str, *arguments: str, out: Path) -> list[dict[str, Any]]:
    """What a part of the suite writes."""
    command = [str(PYTHON), str(STAND_IN / "without_values.py"), script, *arguments, "--out", str(out)]
    done = subprocess.run(command, env=card, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("part", "least"), [("stack", 4), ("long", 1), ("grid", 32)])
def test_an_update_takes_what_is_planned(part: str, least: int, card: Environment, tmp_path: Path) -> None:
    found = figures(card, "updates.py", part, out=tmp_path / "figures")
    planned = {line["what"]: line["planner_error"] for line in found if "planner_error" in line}
    counted = [line for line in found if "planner_error" in line]
    assert len(counted) >= least
    assert all(abs(line["planner_error"]) <= WITHIN for line in counted), planned


@pytest.mark.parametrize("script", ["layer.py", "link.py", "head.py"])
def test_the_other_parts_run(script: str, card: Environment, tmp_path: Path) -> None:
    assert figures(card, script, out=tmp_path / "figures")


@pytest.mark.parametrize("capability", [75, 80, 90, 120])
def test_every_path_runs(capability: int, card: Environment) -> None:
    done = subprocess.run(
        [str(PYTHON), str(STAND_IN / "paths.py")],
        env={**card, "STAND_IN_CAPABILITY": str(capability)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " paths, 0 failed" in done.stdout and "no card launches" not in done.stderr
