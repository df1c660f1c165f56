"""A user's reward function in the sandbox of programs: for a function that runs code from completions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr.verifiers.program_tests import decode
from rlvr.verifiers.sandbox.run import Kind, ProgramLimits, ProgramRun, SandboxError, execute
from rlvr.verifiers.workers import own, own_results, reading

TARGET = "rlvr.rewards.sandboxed:run"
FOLDER = Path("user")
PROGRAM = """
import sys
from pathlib import Path
for name, content in {files!r}.items():
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content)
sys.path.insert(0, str(Path.cwd()))
from rlvr.verifiers.workers.own import call, signature
"""


def run(*, function: str, arguments: dict[str, Any], limits: Mapping[str, Any], kind: Kind) -> Any:
    """What `function` of workers/own.py (call, signature) returns in a new sandbox, which holds a copy of user/.

    The standard library is all that it can import. The user's function shares its process with what it runs, so a
    completion may forge the points of its question, and nothing else. Raises RuntimeError when the sandbox ends without
    a result, and for one that own.call cannot have returned.
    """
    copy = own.file_of("")
    files = {
        **{f"rlvr/verifiers/workers/{Path(str(module.__file__)).name}": Path(str(module.__file__)).read_bytes()
           for module in (own, own_results, reading)},
        **{str(path.relative_to(copy)): path.read_bytes() for path in sorted((copy / FOLDER).rglob("*"))
           if path.is_file() and "__pycache__" not in path.parts},
    }  # fmt: skip
    request = ProgramRun(calls=({"name": function, "args": [], "kwargs": arguments},))
    try:
        (ending,) = execute(PROGRAM.format(files=files), [request], limits=ProgramLimits(**limits), kind=kind).endings
        word, value = json.loads(ending.replies.partition(b"\n")[0] or f'["ended", "{ending.cause}"]')
        value = decode(value) if word != "ended" else ending.message
    except SandboxError as error:
        raise RuntimeError(f"the sandbox did not start: {error}") from None
    except (ValueError, TypeError, RecursionError):
        raise RuntimeError("in the sandbox: its reply cannot be read") from None
    if word != "value" or (function == "call" and not _are_scores(value, len(arguments["items"]))):
        raise RuntimeError(f"in the sandbox: {str(value)[:300]}")
    return value


def _are_scores(value: Any, count: int) -> bool:
    if not isinstance(value, dict) or set(value) != {"points", "messages"}:
        return False
    points, messages = value["points"], value["messages"]
    if not isinstance(points, list) or not isinstance(messages, list) or not len(points) == len(messages) == count:
        return False
    known = (one is None or (isinstance(one, float) and abs(one) != float("inf")) for one in points)
    return all(known) and all(isinstance(one, str) for one in messages)
