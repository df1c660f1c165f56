"""`rlvr deps`: write each stage's code dependencies into dvc.yaml."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from rlvr.stages.code import code_dependencies
from rlvr.types import UserError

SOURCE, PIPELINE = Path("src"), Path("dvc.yaml")


def with_code(text: str, source: Path = SOURCE) -> str:
    """dvc.yaml with a new list of code for every stage. Other dependencies come first and stay unchanged."""
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    pipeline = yaml.load(text)
    for name, stage in pipeline["stages"].items():
        others = [dep for dep in stage.setdefault("deps", []) if not str(dep).startswith("src/")]
        code = code_dependencies(name, source)
        stage["deps"].clear()
        stage["deps"].extend([*others, *code])
    out = StringIO()
    yaml.dump(pipeline, out)
    return out.getvalue()


def main() -> None:
    if not PIPELINE.is_file():
        raise UserError(f"{PIPELINE} does not exist here; run from the top of the project")
    before = PIPELINE.read_text(encoding="utf-8")
    after = with_code(before)
    PIPELINE.write_text(after, encoding="utf-8")
    print(f"{PIPELINE}: {'unchanged' if after == before else 'dependencies written; the stages they belong to re-run'}")
