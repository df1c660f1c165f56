"""Imports point down, type-only ones too; heavy packages have one home; the command line starts without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.stages.code import imported, module_file

SOURCE = Path(__file__).parents[1] / "src"
# Top to bottom; a module imports from lower lines only, or from its own package.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("stages",),
    ("grpo", "sft", "report"),
    ("training", "evaluate"),
    ("rollout",),
    ("sampler", "problems"),
    ("model",),
    ("memory", "loss", "tasks"),
    ("batch", "config"),
    ("attention", "logprob", "rewards", "advantage", "plan"),
    ("verifiers", "linear", "chat", "flow"),
    ("runtime",),
    ("types",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# The others get plain values. tasks and problems read what a task's section of params.yaml says of its data.
KNOW_CONFIG = {"cli", "commands", "stages", "grpo", "sft", "rollout", "problems", "tasks"}
HOMES = {
    "matplotlib": {"report"},
    "peft": {"model", "memory"},
    "bitsandbytes": {"model", "training", "memory"},
    "accelerate": {"memory"},
    "vllm_bnb_plugin": {"sampler"},
    "vllm": {"sampler"},
    "triton": {"loss", "logprob", "memory"},
    "pydantic": {"config"},
    "typer": {"cli"},
    "rich": {"runtime", "plan"},
}
WITHOUT_TORCH = (
    "chat", "types", "config", "rewards", "verifiers", "tasks", "plan", "report", "cli", "flow",
)  # fmt: skip
FLAT_MODULES, FILES_OF_A_FOLDER = 12, 13
FILES = sorted((SOURCE / "rlvr").rglob("*.py"))


def package(file: Path) -> str:
    """The module or package right under rlvr that `file` belongs to."""
    return file.relative_to(SOURCE / "rlvr").with_suffix("").parts[0]


def imported_packages(file: Path) -> set[str]:
    names = imported(file, with_types=True)
    modules = {name for name in names if name.startswith("rlvr.") and module_file(name, SOURCE)}
    return {name.split(".")[1] for name in modules} - {package(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down(file: Path) -> None:
    if package(file) == "__init__":
        assert not imported_packages(file)
        return
    assert package(file) in LEVEL, f"give {package(file)} a line in LAYERS"
    higher = {other for other in imported_packages(file) if LEVEL[other] <= LEVEL[package(file)]}
    assert not higher, f"{package(file)} imports {higher}, which are level with it or above it"


def test_no_circle_between_modules() -> None:
    """Within a package, too, and counting what only type checkers import."""
    below = {
        file: {
            other
            for name in imported(file, with_types=True)
            if (other := module_file(name, SOURCE)) and not (other.stem == "__init__" and other.parent in file.parents)
        }
        for file in FILES
    }
    done: set[Path] = set()

    def visit(file: Path, trail: tuple[Path, ...]) -> None:
        circle = [str(f.relative_to(SOURCE)) for f in (*trail[trail.index(file) :], file)] if file in trail else []
        assert not circle, " -> ".join(circle)
        if file not in done:
            for other in below[file] - {file}:
                visit(other, (*trail, file))
            done.add(file)

    for file in FILES:
        visit(file, ())


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    flat = [file for file in (SOURCE / "rlvr").glob("*.py") if not file.name.startswith("__")]
    assert len(flat) <= FLAT_MODULES, [file.name for file in flat]
    for folder in {file.parent for file in FILES if file.parent != SOURCE / "rlvr"}:
        files = sorted(file.name for file in folder.glob("*.py"))
        assert len(files) <= FILES_OF_A_FOLDER, f"{folder.relative_to(SOURCE)}: {files}"


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
