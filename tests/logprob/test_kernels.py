"""The Triton kernels: run (on a GPU, else by Triton's interpreter, which takes a process of its own), and compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.compiled import SHARED_KIB, Variant, all_variants, compiled, few_variants

pytest.importorskip("triton", reason="triton is for Linux on x86_64")
TESTS = Path(__file__).parent.parent
SPILLED_BYTES = 16  # ptxas gives up four registers of 64 to run two programs at a time
CASES = ("logprob/head_kernel_cases.py", "loss/loss_kernel_cases.py", "memory/norm_kernel_cases.py")


@pytest.mark.parametrize("cases", CASES)
def test_the_kernels_are_right(cases: str) -> None:
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", str(TESTS / cases)],
        env=os.environ | interpreted | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.parametrize("capability, out", [(75, "*fp16"), (90, "*bf16")])
@pytest.mark.parametrize("branches", [True, False])
def test_the_kernels_compile(cache: None, capability: int, out: str, branches: bool) -> None:
    """For the T4 and the H100, with every branch and with none."""
    for variant in few_variants(branches):
        check(variant, capability, out)


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_KIB)
def test_what_a_run_may_launch_fits_every_card(cache: None, capability: int) -> None:
    """In the shared memory of the card, with registers for a whole program, and nearly none of them spilled."""
    for out in ("*fp16" if capability < 80 else "*bf16", "*fp32"):
        for variant in all_variants():
            check(variant, capability, out)


def check(variant: Variant, capability: int, out: str) -> None:
    code = compiled(variant, capability, out)
    case = f"sm_{capability}, {out}, {variant}: {code}"
    assert code.shared_bytes <= SHARED_KIB[capability] * 1024, case
    assert code.stack_bytes <= SPILLED_BYTES, case
    assert code.registers * 32 * variant.num_warps <= 2**16, case


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def test_head_and_loss_need_torch_alone() -> None:
    """So that the benchmarks run on a machine with torch and triton only."""
    absent = ("transformers", "pydantic", "datasets", "peft", "pandas")
    code = f"import sys, rlvr.loss.kernel; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
