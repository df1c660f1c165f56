"""The Triton kernels: run (on a GPU, else by Triton's interpreter, which takes a process of its own), and compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is for Linux on x86_64")
TESTS = Path(__file__).parent.parent
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


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compile a kernel for a card that need not be here; the machine code."""
    from triton import compile as compile_kernel  # noqa: PLC0415
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def make(kernel: Any, capability: int, out: str, **constants: Any) -> bytes:
        types = {"logits": "*fp32", "out": out, "target_C": "*i64", "start_R": "*i64", "stride": "i32"}
        types |= dict.fromkeys(("vocabulary", "num_rows", "width"), "i32")
        types |= dict.fromkeys(("grad_ND", "x_ND", "y_ND", "grad_x_ND", "weight_D"), out)
        signature = {}
        for name in kernel.arg_names:
            pointer = "*fp32" if name.endswith(("_C", "_T", "_N", "_PD")) else "fp32"
            signature[name] = "constexpr" if name in constants else types.get(name, pointer)
        source = ASTSource(kernel, signature, constants)
        target = GPUTarget("cuda", capability, 32)
        code: bytes = compile_kernel(source, target=target, options={"num_warps": 16}).asm["cubin"]
        return code

    return make


@pytest.mark.parametrize("capability, out", [(75, "*fp16"), (90, "*bf16")])
@pytest.mark.parametrize("entropy", [True, False])
def test_the_kernels_compile(build: Any, capability: int, out: str, entropy: bool) -> None:
    """For the T4 and the H100, with every branch and with none."""
    from rlvr.logprob import kernel as head  # noqa: PLC0415
    from rlvr.loss import kernel as loss  # noqa: PLC0415
    from rlvr.memory import norm_kernel as norm  # noqa: PLC0415

    for width in (64, 128, 4096, 16384):
        sizes = {name: size for name, size in norm.launch(width).items() if name != "num_warps"}
        assert build(norm.forward_kernel, capability, out, ROUNDS_FIRST=entropy, **sizes)
        assert build(norm.backward_kernel, capability, out, NEEDS_WEIGHT=entropy, **sizes)
    assert build(head.statistics_kernel, capability, out, CAPPED=entropy, BLOCK=8192)
    assert build(head.gradient_kernel, capability, out, CAPPED=entropy, ENTROPY=entropy, BLOCK=8192)
    for family in (0, 1, 2):
        terms = {"FAMILY": family, "HAS_DELTA": entropy, "KL": entropy, "UNBIASED": entropy, "MASKED": entropy}
        head_terms = {"CAPPED": entropy, "ENTROPY": entropy, "GRADIENT": True, "HAS_OLD": entropy, "BLOCK": 8192}
        assert build(loss.head_kernel, capability, out, **head_terms, CORRECTION=2 * entropy, **terms)
        row_terms = {"SEQUENTIAL": entropy, "CORRECTION": 3 * entropy, "BLOCK": 1024}
        assert build(loss.completion_kernel, capability, out, **row_terms, **terms)


def test_head_and_loss_need_torch_alone() -> None:
    """So that the benchmarks run on a machine with torch and triton only."""
    absent = ("transformers", "pydantic", "datasets", "peft", "pandas")
    code = f"import sys, rlvr.loss.kernel; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
