"""No file is read or written in the encoding of the locale."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from support.smoke import default_params

ROOT = Path(__file__).parents[1]
FILES = [*(ROOT / "src/rlvr").rglob("*.py"), *(ROOT / "docs/make").glob("*.py")]
TEXT = {"read_text", "write_text", "open", "NamedTemporaryFile"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT / "src")}


def opens_text(call: ast.Call) -> bool:
    """Whether the call opens a file or a pipe as text; os.open, and direct.open of a URL, give bytes."""
    name, of = (call.func.attr, ast.unparse(call.func.value)) if isinstance(call.func, ast.Attribute) else ("", "")
    modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    is_binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
    is_pipe = any(ast.unparse(keyword) == "text=True" for keyword in call.keywords)
    return is_pipe or (name in TEXT and of not in ("os", "direct") and not is_binary)


def test_every_text_names_its_encoding() -> None:
    missing = [
        f"{file.relative_to(ROOT)} line {call.lineno}: {ast.unparse(call)}"
        for file in FILES
        for call in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(call, ast.Call) and opens_text(call)
        if not any(keyword.arg == "encoding" for keyword in call.keywords)
    ]
    assert not missing


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | C_LOCALE | environment,
        capture_output=True,
        check=False,
        timeout=300,
    )


def test_utf8_in_a_locale_without_it(tmp_path: Path) -> None:
    """A file name, a text that is read and a text that is printed; output of 8 bits by PYTHONIOENCODING, too."""
    (tmp_path / "params.yaml").write_text(default_params().replace("answer: number", "answer: zähl"), encoding="utf-8")
    for environment in ({}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}):
        done = run(tmp_path, "-m", "rlvr", "check", **environment)
        assert b"Traceback" not in done.stderr
        assert done.returncode == 1
    assert "zähl" in run(tmp_path, "-m", "rlvr", "check").stderr.decode()
    (tmp_path / "frägen.txt").write_text("What is 1+1?\n", encoding="utf-16")
    done = run(tmp_path, "-c", "import sys; sys.argv[1:] = ['rewards', 'try', 'frägen.csv']; import rlvr.__main__")
    assert b"Traceback" not in done.stderr


def test_a_byte_order_mark_is_no_part_of_params_yaml(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(default_params(), encoding="utf-8-sig")
    done = run(tmp_path, "-m", "rlvr", "check")
    assert (done.returncode, done.stdout.decode().splitlines()[0]) == (0, "params.yaml is fine")
