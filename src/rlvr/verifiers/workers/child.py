"""The child process of pool.py: calls functions by name, one at a time, as JSON lines over two pipes.

A request is {"target": "module:function", "arguments": {…}, "cpu_seconds": …}. The answer is {"begun": true}, written
when the module is loaded and the call begins, followed by one reply: {"value": …} or {"failure": …, "message": …}.
SIGPROF ends the process when a call computes for longer than its cpu_seconds, unless these are null.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from rlvr.runtime.lifetime import die_with_parent
from rlvr.verifiers.verdict import Verdict

REPLY_BYTES = 16 * 2**20  # a longer reply is refused
MESSAGE_LENGTH = 2000
OUT_OF_MEMORY = 86  # exit status when not even a reply can be allocated


def main() -> None:
    requests_fd, replies_fd, memory_bytes, parent = (int(text) for text in sys.argv[1:])
    die_with_parent()
    if os.getppid() != parent:
        return
    for fd in (requests_fd, replies_fd):
        os.set_inheritable(fd, False)
    os.dup2(2, 1)  # a verifier's prints go to standard error
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS ignores it
        limit_memory(memory_bytes)
    try:
        with open(requests_fd, "rb") as requests, open(replies_fd, "wb") as replies:  # noqa: PTH123
            serve(requests, replies, memory_bytes)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def limit_memory(memory_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(requests: BinaryIO, replies: BinaryIO, memory_bytes: int) -> None:
    """Answer requests until they end. A worker whose memory fills up reports that it is spent, to spare the next call.

    Caches grow with every call. A worker is spent if it has used half of the memory that was free when its last module
    was loaded.
    """
    functions: dict[str, Callable[..., Any]] = {}
    base_bytes = 0
    for line in requests:
        request = json.loads(line)
        target = request["target"]
        if target not in functions:
            try:
                functions[target] = load(target)
            except Exception as error:
                send(replies, {"failure": "worker", "message": f"could not load {target}: {describe(error)}"})
                continue
            base_bytes = address_space_bytes()
        send(replies, {"begun": True})
        signal.setitimer(signal.ITIMER_PROF, request["cpu_seconds"] or 0)
        reply = call(functions[target], request["arguments"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        del line, request
        is_spent = address_space_bytes() - base_bytes > (memory_bytes - base_bytes) / 2
        replies.write(reply[:-1] + b', "is_spent": %s}\n' % (b"true" if is_spent else b"false"))
        replies.flush()


def load(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> bytes:
    """The reply to a call, as a JSON object."""
    try:
        reply = json.dumps({"value": function(**arguments)}, default=plain).encode()
    except BaseException as error:  # SystemExit too: no answer may end its verifier unseen
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return json.dumps({"failure": "memory", "message": "over its memory limit"}).encode()
        return json.dumps({"failure": "error", "message": describe(error)}).encode()
    if len(reply) > REPLY_BYTES:
        message = f"the result has {len(reply):,} bytes; at most {REPLY_BYTES:,} are allowed"
        return json.dumps({"failure": "error", "message": message}).encode()
    return reply


def send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


def plain(value: object) -> Any:
    if isinstance(value, Verdict):
        return value.to_json()
    raise TypeError(f"the result holds a {type(value).__name__}; it must be JSON or a Verdict")


def describe(error: BaseException) -> str:
    """Type, text and place of an error, cut if it is long."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    try:
        text = str(error)[:MESSAGE_LENGTH]
    except Exception:
        text = "its text cannot be read"
    return f"{type(error).__name__}: {text}{place[:MESSAGE_LENGTH]}"


def address_space_bytes() -> int:
    """The size that RLIMIT_AS limits; 0 if unknown."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[0]
    except FileNotFoundError:
        return 0
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    main()
