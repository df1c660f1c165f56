"""Triton kernels compiled for cards that need not be here, as a run launches them, and what their code takes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

SHARED_KIB = {75: 64, 80: 163, 89: 99, 90: 227, 120: 99}  # of one program, by compute capability
VOCABULARIES = (32_064, 49_152, 151_936)
WIDTHS = (64, 128, 256, 576, 4096, 5120, 8192, 16384)  # of heads and hidden states
TYPES = {
    "logits": "*fp32", "target_C": "*i64", "start_R": "*i64", "stride": "i32", "vocabulary": "i32", "num_rows": "i32",
    "width": "i32",
}  # fmt: skip
OUT = ("out", "grad_ND", "x_ND", "y_ND", "grad_x_ND", "weight_D")  # arguments in the type of the weights


@dataclass(frozen=True)
class Variant:
    """A kernel, its constants and its launch. `is_aligned`: pointers and sizes that 16 divides."""

    name: str
    kernel: Any
    constants: Mapping[str, Any]
    num_warps: int
    is_aligned: bool = True

    def __str__(self) -> str:
        return f"{self.name} {dict(self.constants)}, {self.num_warps} warps, aligned: {self.is_aligned}"


@dataclass(frozen=True)
class Code:
    """What one program takes: shared memory, registers a thread, and a stack, where registers do not suffice."""

    shared_bytes: int
    registers: int
    stack_bytes: int


def compiled(variant: Variant, capability: int, out: str) -> Code:
    """The code of `variant` for a card; `out`, such as *bf16, is the type of the weights."""
    import triton  # noqa: PLC0415
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    types = TYPES | dict.fromkeys(OUT, out)
    signature, attributes = {}, {}
    for place, name in enumerate(variant.kernel.arg_names):
        other = "*fp32" if name.endswith(("_C", "_T", "_N", "_PD")) else "fp32"
        signature[name] = "constexpr" if name in variant.constants else types.get(name, other)
        if variant.is_aligned and signature[name].startswith(("*", "i32")):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(variant.kernel, signature, dict(variant.constants), attributes)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options={"num_warps": variant.num_warps})
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    registers, stack = (int(number) for number in re.findall(r"(?:REG|STACK):(\d+)", usage))
    return Code(made.metadata.shared, registers, stack)


def norm_variants(widths: tuple[int, ...], branches: tuple[bool, ...]) -> Iterator[Variant]:
    from rlvr.memory import norm_kernel  # noqa: PLC0415

    for width, branch in product(widths, branches):
        sizes = norm_kernel.launch(width)
        warps = sizes.pop("num_warps")
        yield Variant("norm", norm_kernel.forward_kernel, {"ROUNDS_FIRST": branch, **sizes}, warps)
        needs_weight = branch and width <= 8192  # no card trains all weights of a wider model
        yield Variant("norm, back", norm_kernel.backward_kernel, {"NEEDS_WEIGHT": needs_weight, **sizes}, warps)


def few_variants(branches: bool) -> Iterator[Variant]:
    """Every kernel with every branch, or with none."""
    from rlvr.logprob import kernel as head  # noqa: PLC0415
    from rlvr.loss import kernel as loss  # noqa: PLC0415

    yield from norm_variants((64, 128, 4096, 16384), (branches,))
    sizes = head.launch(VOCABULARIES[-1])
    warps = sizes.pop("num_warps")
    yield Variant("statistics", head.statistics_kernel, {"CAPPED": branches, **sizes}, warps)
    yield Variant("gradient", head.gradient_kernel, {"CAPPED": branches, "ENTROPY": branches, **sizes}, warps)
    for family in (0, 1, 2):
        terms = {"FAMILY": family, "HAS_DELTA": branches, "KL": branches, "UNBIASED": branches, "MASKED": branches}
        of_head = {"CAPPED": branches, "ENTROPY": branches, "GRADIENT": True, "HAS_OLD": branches, **sizes}
        yield Variant("head", loss.head_kernel, {**of_head, "CORRECTION": 2 * branches, **terms}, warps)
        of_row = {"SEQUENTIAL": branches, "CORRECTION": 3 * branches, "BLOCK": loss.BLOCK}
        yield Variant("completion", loss.completion_kernel, {**of_row, **terms}, 4)


def all_variants() -> Iterator[Variant]:
    """What runs may launch: every family and place of a correction, with and without each branch, in all sizes."""
    from rlvr.logprob import kernel as head  # noqa: PLC0415
    from rlvr.loss import kernel as loss  # noqa: PLC0415

    yield from norm_variants(WIDTHS, (False, True))
    both = (False, True)
    for vocabulary, is_aligned in zip(VOCABULARIES, (True, False, True), strict=True):
        sizes = head.launch(vocabulary)
        warps = sizes.pop("num_warps")
        for capped, entropy in product(both, both):
            yield Variant("statistics", head.statistics_kernel, {"CAPPED": capped, **sizes}, warps, is_aligned)
            constants = {"CAPPED": capped, "ENTROPY": entropy, **sizes}
            yield Variant("gradient", head.gradient_kernel, constants, warps, is_aligned)
    sizes = head.launch(VOCABULARIES[-1])
    warps = sizes.pop("num_warps")
    corrections = (loss.OFF, loss.GIVEN, loss.TOKEN)
    for number, (family, correction, kl) in enumerate(product((0, 1, 2), corrections, both)):
        terms = {
            "FAMILY": family,
            "HAS_DELTA": kl and family == 0,
            "KL": kl,
            "UNBIASED": kl,
            "MASKED": bool(correction),
        }
        for gradient in both:
            of_head = {"CAPPED": bool(number % 2), "ENTROPY": gradient, "GRADIENT": gradient, "HAS_OLD": kl, **sizes}
            yield Variant("head", loss.head_kernel, {**of_head, "CORRECTION": correction, **terms}, warps)
    for family, correction, sequential in product((0, 1, 2), (loss.OFF, loss.TOKEN, loss.SEQUENCE), both):
        terms = {"FAMILY": family, "HAS_DELTA": family == 0, "KL": sequential, "UNBIASED": True, "MASKED": sequential}
        of_row = {"SEQUENTIAL": sequential, "CORRECTION": correction, "BLOCK": loss.BLOCK}
        yield Variant("completion", loss.completion_kernel, {**of_row, **terms}, 4)
