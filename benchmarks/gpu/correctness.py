"""Every Triton kernel compiled for this card and compared with the formulas in float64.

    python benchmarks/gpu/correctness.py          # on an NVIDIA card, a minute or two; needs pytest

It runs head_kernel_cases.py, loss_kernel_cases.py and norm_kernel_cases.py of tests/, which read the kernels' results
on the GPU. In miniature one case of each runs in Triton's interpreter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from figures import Bench, begin

ROOT = Path(__file__).parents[2]
CASES = {
    "head": "logprob/head_kernel_cases.py",
    "loss": "loss/loss_kernel_cases.py",
    "norm": "memory/norm_kernel_cases.py",
}
TINY = {"head": "no_tokens", "loss": "reported_is_the_one_applied", "norm": "no_rows"}


def run_cases(bench: Bench, name: str) -> int:
    """Run one file of cases; how many did not pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "--noconftest", "-p", "no:cacheprovider"]
    command += ["-o", "filterwarnings=default"]  # another torch may warn where the tested one does not
    command += [str(ROOT / "tests" / CASES[name]), *(["-k", TINY[name]] if bench.is_tiny else [])]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    interpreted = {} if bench.is_cuda else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, env=os.environ | interpreted | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}
    wrong = counts.get("failed", 0) + counts.get("error", 0) + (not counts.get("passed"))
    report = {} if done.returncode == 0 else {"output": (done.stdout + done.stderr)[-4000:]}
    bench.note(f"kernels, {name}", **counts, summary=last, **report)
    return wrong


def main(arguments: Sequence[str] | None = None) -> None:
    bench, wanted = begin(__doc__, arguments, choices=list(CASES))
    wrong = {name: run_cases(bench, name) for name in wanted}
    for name, count in wrong.items():
        bench.judge(f"kernels of the {name}, wrong", count, "cases", at_most=0)
    if any(wrong.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
