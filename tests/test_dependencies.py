"""Every package that rlvr imports is declared in pyproject.toml and pinned in constraints.txt."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import rlvr

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# its own requirements would bring a second torch: the Makefile installs it without them
APART = {"vllm-bnb-plugin"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    """The packages of lines such as "torch>=2.13; sys_platform == 'linux'"."""
    return {normalised(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requirements}


def imported() -> dict[str, str]:
    """Top-level names of third parties that src/rlvr imports, anywhere in a file, and one file that does."""
    found = {}
    for path in sorted((ROOT / "src/rlvr").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in modules:
                name = module.partition(".")[0]
                if name != "rlvr" and name not in sys.stdlib_module_names:
                    found[name] = str(path.relative_to(ROOT))
    return found


IMPORTED = imported()
INSTALLED = packages_distributions()
DECLARED = names(PROJECT["dependencies"]).union(*map(names, PROJECT["optional-dependencies"].values()))
PINNED = names([line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")])


def distributions(name: str) -> set[str]:
    """The packages that may bring a module: those that are installed, and one with the same name."""
    return {normalised(x) for x in (*INSTALLED.get(name, ()), name)}


@pytest.mark.parametrize("name", IMPORTED)
def test_what_is_imported_is_declared(name: str) -> None:
    assert distributions(name) & (DECLARED | APART), f"{IMPORTED[name]} imports {name}: add it to pyproject.toml"


def test_what_is_declared_is_pinned() -> None:
    assert DECLARED | APART <= PINNED, f"not in constraints.txt: {sorted((DECLARED | APART) - PINNED)}"
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    assert all("==" in line for line in lines) and lines == sorted(lines, key=str.lower)


def test_what_is_installed_apart_is_in_the_makefile() -> None:
    text = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"install .*--no-deps .*{name}$", text, re.MULTILINE) for name in APART)


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert re.fullmatch(r"\d+\.\d+\.\d+", rlvr.__version__)


def test_extras_that_messages_name_exist() -> None:
    """`pip install 'rlvr[qlora]'` and its like, in the errors of a part that is missing."""
    texts = [path.read_text() for path in (ROOT / "src/rlvr").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"rlvr\[([\w-]+)\]", text)}
    assert named and named <= PROJECT["optional-dependencies"].keys()


def test_ruff_before_a_commit_is_that_of_the_constraints() -> None:
    versions = re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())
    assert versions and set(versions) <= set((ROOT / "constraints.txt").read_text().split())
