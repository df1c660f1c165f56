"""Nothing that a person can write into a file or a setting ends in a traceback: 200 broken ones, as the command reads
them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rlvr import cli
from rlvr.config import parse_yaml
from support.smoke import smoke_params

SOURCE = Path(__file__).parents[1] / "src"
ROWS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "working": f"{i}+{i}", "level": 1} for i in range(60)]
RECORDS = {
    "prepare.task": "records",
    "prepare.train_problems": None,
    "prepare.sft_problems": 8,
    "prepare.dev_problems": 4,
    "prepare.evaluation_problems": 8,
}
few = settings(max_examples=50, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that the command runs in, for all cases of this file."""
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        yield Path(folder)
        os.chdir(before)


def params(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = parse_yaml(smoke_params(), "params.yaml")
    for key, value in changes.items():
        *sections, name = key.split(".")
        at = values
        for section in sections:
            at = at[section]
        at[name] = value
    return values


def write_params(values: object) -> None:
    Path("params.yaml").write_text(json.dumps(values), encoding="utf-8")


def end_of(*arguments: str) -> str:
    """What the command prints for its end. An error that it does not turn into a message is one of this call."""
    out = io.StringIO()
    with (
        patch.object(sys, "argv", ["rlvr", *arguments]), redirect_stdout(out), redirect_stderr(out),
        suppress(SystemExit),
    ):  # fmt: skip
        cli.main()
    assert "Traceback" not in out.getvalue()
    return out.getvalue()


broken_bytes = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(max_size=80).map(lambda text: text.encode("utf-16", "surrogatepass")),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["", "\ud800", "1e999"])
)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3))


def spoiled(data: st.DataObject, text: bytes) -> bytes:
    """`text` with a part cut out and another put in."""
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 400)))
    return text[:start] + data.draw(broken_bytes) + text[end:]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    head = list(rows[0])
    return "\n".join([",".join(head), *(",".join(str(row[name]) for name in head) for row in rows)]).encode()


@few
@given(st.data())
def test_tables(place: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["csv", "jsonl", "json", "parquet"]))
    file = place / f"data/raw/mine.{kind}"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(row) for row in ROWS]
    for _ in range(data.draw(st.integers(0, 4))):
        rows[data.draw(st.integers(0, 59))][data.draw(st.sampled_from(list(rows[0])))] = data.draw(values)
    texts = {"csv": as_csv(rows), "json": json.dumps(rows).encode(), "parquet": b"PAR1" + as_csv(rows) + b"PAR1"}
    text = texts.get(kind) or "\n".join(map(json.dumps, rows)).encode()
    file.write_bytes(spoiled(data, text) if data.draw(st.booleans()) else text)
    columns = data.draw(st.sampled_from([{}, {"prepare.records.columns.level": None}]))
    answer = data.draw(st.sampled_from(["number", "text", "exact", "choice"]))
    write_params(params(**RECORDS | columns | {"prepare.records.source": str(file), "verifiers.answer": answer}))
    end_of("prepare")


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


@few
@given(st.data())
def test_params(place: Path, data: st.DataObject) -> None:
    tree = params()
    if data.draw(st.integers(0, 3)):
        for path in data.draw(st.lists(st.sampled_from(list(leaves(tree))), min_size=1, max_size=3)):
            at = tree
            for key in path[:-1]:
                at = at[key] if isinstance(at.get(key), dict) else {}
            at[path[-1]] = data.draw(values)
        (place / "params.yaml").write_bytes(json.dumps(tree).encode())
    else:
        (place / "params.yaml").write_bytes(spoiled(data, smoke_params().encode()))
    end_of("check")
    if data.draw(st.integers(0, 9)) == 0:  # slow
        end_of("preset", "default", "--diff")


@pytest.fixture(scope="module")
def model(place: Path, base: Callable[[str], Path]) -> Path:
    """A model folder that works: it says so before it is broken."""
    shutil.copytree(base("llama"), place / "good")
    write_params(params())
    assert "answers 1 question" in end_of("generate", "1+1?", "--model", str(place / "good"), "--max-tokens", "3")
    return place / "good"


def ask(folder: Path) -> None:
    end_of("generate", "1+1?", "--model", str(folder), "--max-tokens", "3")


TEMPLATES = (
    "{{", "{% for m in messages %}", "{{ bos_token + none }}", "{{ messages[9]['content'] }}", "{{ 1 / 0 }}", "",
    "{{ raise_exception('roles must alternate') }}", "{{ messages | nothing }}", "{% include 'a' %}", "{{ x.y.z }}",
    "{% for m in messages %}{{ m.content.strip().parts }}{% endfor %}", "{{ messages | tojson }}", "\ud800",
    "{% for m in messages %}{{ m['content'] }}{% endfor %}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
)  # fmt: skip


@few
@given(st.sampled_from(TEMPLATES) | st.text("{}%abc ._|[]'()", max_size=20), st.booleans())
def test_templates(model: Path, template: str, is_prepared: bool) -> None:
    with TemporaryDirectory() as folder:
        broken = shutil.copytree(model, Path(folder) / "broken")
        (broken / "chat_template.jinja").write_bytes(template.encode("utf-8", "surrogatepass"))
        write_params(params(**{"model.source": str(broken)}))
        if is_prepared:
            end_of("prepare")
        else:
            ask(broken)


@few
@given(st.data())
def test_model_folders(model: Path, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        broken = shutil.copytree(model, Path(folder) / "broken")
        file = data.draw(st.sampled_from(sorted(path.name for path in broken.iterdir())))
        path = broken / file
        how = data.draw(st.sampled_from(["gone", "bytes", "value", "folder"]))
        if how == "value" and path.suffix == ".json":
            tree = json.loads(path.read_text(encoding="utf-8"))
            tree[data.draw(st.sampled_from(sorted(tree) or ["a"]))] = data.draw(values)
            path.write_text(json.dumps(tree), encoding="utf-8")
        elif how == "bytes":
            path.write_bytes(spoiled(data, path.read_bytes()))
        else:
            path.unlink()
            if how == "folder":
                path.mkdir()
        write_params(params())
        ask(broken)


@pytest.mark.parametrize("case", ["table", "params", "adapter", "stage"])
def test_as_a_program(case: str, tmp_path: Path) -> None:
    write = {
        "table": lambda: (tmp_path / "params.yaml").write_text(
            json.dumps(params(**RECORDS | {"prepare.records.source": "a.csv"})), encoding="utf-8"
        ),
        "params": lambda: (tmp_path / "params.yaml").write_bytes(smoke_params().encode() + b"# gr\xf6\xdfer\n"),
    }
    write.get(case, lambda: (tmp_path / "params.yaml").write_text(smoke_params(), encoding="utf-8"))()
    (tmp_path / "a.csv").write_bytes(b"question,answer\n\xff,1\n")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "adapter/adapter_config.json").write_text("{}", encoding="utf-8")
    commands = {"table": ["prepare"], "params": ["check"], "stage": ["grpo"]}
    command = commands.get(case, ["generate", "1+1?", "--model", "adapter"])
    done = subprocess.run(
        [sys.executable, "-m", "rlvr", *command],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].strip() or done.stderr.startswith("error: ")
