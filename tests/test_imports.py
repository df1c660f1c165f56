"""Imports point down, heavy packages have one home, and the command line starts without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imports import SOURCE, imported, module_file

# Top to bottom; a module imports from lower lines only, or from its own package.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("stages",),
    ("grpo", "sft", "prepare", "report"),
    ("evaluate", "steplog", "state", "scratch"),
    ("rollout",),
    ("sampler", "prepared", "selection", "meter", "optim"),
    ("mismatch",),
    ("policy", "loss"),
    ("head",),
    ("memory", "batch", "logprob", "config", "source", "tokens", "presets"),
    ("doctor",),
    ("trial", "generate"),
    ("rewards", "tasks", "attention", "shared_prompt", "advantage", "serve"),
    ("verifiers", "unpadded", "padded"),
    ("advice", "linear", "attention_kernels"),
    ("chat", "prompts", "progress", "printing", "interrupt", "provenance", "flow", "versions"),
    ("types", "lifetime"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
KNOW_CONFIG = {"cli", "stages", "grpo", "sft", "rollout"}  # the others get plain values
HOMES = {
    "matplotlib": {"report"},
    "peft": {"policy", "memory"},
    "bitsandbytes": {"policy", "optim", "memory"},
    "accelerate": {"memory"},
    "vllm_bnb_plugin": {"sampler"},
    "vllm": {"sampler"},
    "triton": {"loss", "logprob"},
    "pydantic": {"config"},
    "typer": {"cli"},
    "rich": {"progress", "printing", "memory"},
}
WITHOUT_TORCH = (
    "chat",
    "types",
    "config",
    "rewards",
    "verifiers",
    "tasks",
    "selection",
    "report",
    "cli",
    "flow",
    "prompts",
    "provenance",
)
FILES = sorted((SOURCE / "rlvr").rglob("*.py"))


def package(file: Path) -> str:
    """The module or package right under rlvr that `file` belongs to."""
    return file.relative_to(SOURCE / "rlvr").with_suffix("").parts[0]


def imported_packages(file: Path) -> set[str]:
    modules = {name for name in imported(file) if name.startswith("rlvr.") and module_file(name)}
    return {name.split(".")[1] for name in modules} - {package(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down(file: Path) -> None:
    if package(file) == "__init__":
        assert not imported_packages(file)
        return
    assert package(file) in LEVEL, f"give {package(file)} a line in LAYERS"
    higher = {other for other in imported_packages(file) if LEVEL[other] <= LEVEL[package(file)]}
    assert not higher, f"{package(file)} imports {higher}, which stand beside or above it"


def test_only_drivers_know_the_configuration() -> None:
    assert {package(file) for file in FILES if "config" in imported_packages(file)} <= KNOW_CONFIG


@pytest.mark.parametrize("heavy", HOMES)
def test_a_heavy_package_has_one_home(heavy: str) -> None:
    users = {package(file) for file in FILES if any(name.split(".")[0] == heavy for name in imported(file))}
    assert users <= HOMES[heavy]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_no_torch_at_the_top(name: str) -> None:
    files = [file for file in FILES if package(file) == name]
    assert files
    for file in files:
        tops = {module.split(".")[0] for module in imported(file, top_level_only=True)}
        assert not tops & {"torch", "transformers"}, file


def test_the_command_line_starts_without_torch() -> None:
    heavy = ("torch", "transformers", "pandas", "numpy", "matplotlib")
    code = f"import sys, rlvr, rlvr.cli, rlvr.flow; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
