"""The sandbox itself: what runs in it ends as told, what cannot start says why, and nothing stays behind."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlvr.types import UserError
from rlvr.verifiers.sandbox import bubblewrap, seccomp
from rlvr.verifiers.sandbox import run as sandbox
from rlvr.verifiers.sandbox.run import ProgramLimits, ProgramRun, SandboxError, check, execute
from support.sandboxed import need_bubblewrap

pytestmark = pytest.mark.deadline

LIMITS = ProgramLimits(3.0, 1.0, 2**28, 2**22, 4, 2**14)
KINDS: tuple[sandbox.Kind, ...] = ("bubblewrap", "rlimits-only")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> sandbox.Kind:
    found: sandbox.Kind = request.param
    try:
        check(found)
    except UserError as error:
        pytest.skip(str(error))
    return found


def test_each_run_has_its_own_input_and_its_own_ending(kind: sandbox.Kind) -> None:
    source = "import sys\nword = input()\nprint(word[::-1])\nsys.exit(word == 'bad')"
    report = execute(source, [ProgramRun("abc\n"), ProgramRun("bad\n"), ProgramRun("äöü")], limits=LIMITS, kind=kind)
    assert report.compiles
    assert [ending.cause for ending in report.endings] == [None, "crash", None]
    assert [ending.printed.decode() for ending in report.endings] == ["cba\n", "dab\n", "üöä\n"]


def test_calls_see_the_program_as_a_module_and_report_each(kind: sandbox.Kind) -> None:
    source = "def f(x): return {x: (1, 2.5, None, True, 'ä', b'z')}\nassert __name__ != '__main__'"
    calls = ({"name": "f", "args": [2], "kwargs": {}}, {"name": "g", "args": [], "kwargs": {}})
    (ending,) = execute(source, [ProgramRun(calls=calls)], limits=LIMITS, kind=kind).endings
    first, second = ending.replies.splitlines()
    items = '[["int","1"],["float","2.5"],null,true,["str","c3a4"],["bytes","7a"]]'
    assert first.decode() == f'["value",["dict",[[["int","2"],["tuple",{items}]]]]]'
    assert second.startswith(b'["raised",')


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("x = bytearray(10**10)", "memory"),
        ("while True: print('x' * 100)", "output"),
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("1 / 0", "crash"),
        ("1 +", "unparsable"),
    ],
)
def test_every_kind_keeps_time_memory_and_output(kind: sandbox.Kind, source: str, cause: str) -> None:
    started = time.monotonic()
    report = execute(source, [ProgramRun()], limits=LIMITS, kind=kind)
    assert report.endings[0].cause == cause
    assert time.monotonic() - started < LIMITS.wall_seconds + 1.0


def test_a_run_that_hangs_spoils_no_other(kind: sandbox.Kind) -> None:
    limits = replace(LIMITS, wall_seconds=20.0)
    report = execute(
        "if input() == 'stay':\n    while True: pass", [ProgramRun("stay"), ProgramRun("go")], limits=limits, kind=kind
    )
    assert [ending.cause for ending in report.endings] == ["timeout", None]


def test_hash_order_is_the_same_every_time(kind: sandbox.Kind) -> None:
    source = "print({str(i) for i in range(50)})"
    printed = {execute(source, [ProgramRun()], limits=LIMITS, kind=kind).endings[0].printed for _ in range(3)}
    assert len(printed) == 1


def test_no_files_stay(kind: sandbox.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    report = execute("open('left', 'w').write('x' * 100)", [ProgramRun()], limits=LIMITS, kind=kind)
    assert report.endings[0].cause is None
    assert list(tmp_path.iterdir()) == []


STAYS = """
import os, sys
os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(60)  # " + "TOK" + "EN"])
"""
STARTS = """
from rlvr.verifiers.sandbox.run import ProgramLimits, ProgramRun, execute
execute({source!r}, [ProgramRun()], limits=ProgramLimits(50, 50, 2**28, 2**20, 4, 2**10), kind="bubblewrap")
"""


def test_the_sandbox_ends_with_the_process_that_started_it() -> None:
    need_bubblewrap()
    number = str(time.time_ns())
    starts = STARTS.format(source=STAYS.replace("TOK", number[:9]).replace("EN", number[9:]))
    with subprocess.Popen([sys.executable, "-c", starts]) as starter:
        wait_until(lambda: is_running(number), "the program to begin", seconds=20)
        starter.kill()
    wait_until(lambda: not is_running(number), "the program to end", seconds=5)


def is_running(token: str) -> bool:
    paths = Path("/proc").glob("[0-9]*/cmdline")
    return any(token in read(path) for path in paths)


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def wait_until(holds: Callable[[], bool], what: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def test_a_sandbox_that_cannot_start_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "command", lambda **_: ["bwrap", "--no-such-option"])
    with pytest.raises(SandboxError, match="no-such-option"):
        execute("print(1)", [ProgramRun()], limits=LIMITS, kind="bubblewrap")
    with pytest.raises(UserError, match=r"no-such-option.*apt-get install bubblewrap.*rlimits-only"):
        check("bubblewrap")


def test_without_bubblewrap_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    with pytest.raises(UserError, match=r"bwrap, which is not installed.*apt-get.*rlimits-only"):
        check("bubblewrap")


def test_on_macos_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"does not exist on darwin.*rlimits-only"):
        check("bubblewrap")


def run_filter(program: bytes, *, architecture: int, number: int, arguments: tuple[int, ...] = (0, 0, 0)) -> int:
    """A classic BPF machine of the four instructions that the filter uses."""
    lines = [program[i : i + 8] for i in range(0, len(program), 8)]
    at, value = 0, 0
    while True:
        code = int.from_bytes(lines[at][:2], sys.byteorder)
        if_true, if_false = lines[at][2], lines[at][3]
        operand = int.from_bytes(lines[at][4:], sys.byteorder)
        if code == seccomp.RETURN:
            return operand
        if code == seccomp.LOAD:
            known = {seccomp.NUMBER_AT: number, seccomp.ARCHITECTURE_AT: architecture}
            value = known[operand] if operand in known else arguments[(operand - seccomp.ARGUMENTS_AT) // 8]
            at += 1
        else:
            holds = value == operand if code == seccomp.JUMP_IF_EQUAL else value >= operand
            at += 1 + (if_true if holds else if_false)


@pytest.mark.parametrize("machine", [*seccomp.ARCHITECTURES, "riscv64"])
def test_the_filter_refuses_what_its_table_says_and_nothing_else(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.verifiers.sandbox.seccomp.platform.machine", lambda: machine)
    program = seccomp.program()
    if machine not in seccomp.ARCHITECTURES:
        assert run_filter(program, architecture=0, number=101) == seccomp.ALLOW
        return
    column = list(seccomp.ARCHITECTURES).index(machine)
    refused = {pair[column] for pair in seccomp.REFUSED.values()}
    assert len(refused) == len(seccomp.REFUSED)
    own = seccomp.ARCHITECTURES[machine]
    sockets = {pair[column] for pair in seccomp.SOCKETS.values()}
    for number in range(500):
        for first in (0, 1, 2, 10, 16, 38, 40):
            is_refused = number in refused or (number in sockets and first not in seccomp.FAMILIES.values())
            expected = seccomp.REFUSE if is_refused else seccomp.ALLOW
            assert run_filter(program, architecture=own, number=number, arguments=(first, 0, 0)) == expected
    for pair, place, values in seccomp.BUFFERS.values():
        for value in (0, 1, 6, 7, 8, 9, 32, 33, 1031, 1032):
            arguments = tuple(value if i == place else 7777 for i in range(3))
            expected = seccomp.REFUSE if value in values.values() else seccomp.ALLOW
            assert run_filter(program, architecture=own, number=pair[column], arguments=arguments) == expected
    assert run_filter(program, architecture=own, number=seccomp.X32 + 39) == seccomp.REFUSE
    assert run_filter(program, architecture=0x40000003, number=39) == seccomp.KILL


CALLS = """
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
def errno_of(number, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 0
print(json.dumps({{name: errno_of(*call) for name, call in {calls!r}.items()}}))
"""


@pytest.fixture(scope="module")
def refusals() -> dict[str, int]:
    """The errno that each call of the filter's tables gets in the sandbox, 0 where it succeeds."""
    need_bubblewrap()
    column = list(seccomp.ARCHITECTURES).index(platform.machine())
    calls: dict[str, tuple[int, ...]] = {name: (pair[column], -1, 0, 0) for name, pair in seccomp.REFUSED.items()}
    for name, pair in seccomp.SOCKETS.items():
        calls |= {f"{name} {family}": (pair[column], family, 1, 0, 0) for family in range(46)}
    report = execute(CALLS.format(calls=calls), [ProgramRun()], limits=LIMITS, kind="bubblewrap")
    found: dict[str, int] = json.loads(report.endings[0].printed)
    return found


@pytest.mark.parametrize("name", seccomp.REFUSED)
def test_each_refused_call_fails_in_the_sandbox(refusals: dict[str, int], name: str) -> None:
    assert refusals[name] == errno.EPERM


def test_three_families_of_sockets_exist_in_the_sandbox(refusals: dict[str, int]) -> None:
    for name in seccomp.SOCKETS:
        allowed = {family for family in range(46) if refusals[f"{name} {family}"] != errno.EPERM}
        assert allowed == set(seccomp.FAMILIES.values())


HOLDING = {  # memory of a process that no address space counts; each would hold more than its limit of 256 MiB
    "System V shared memory": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
for _ in range(6):
    key = libc.shmget(0, 2**26, 0o1600)
    if key < 0: raise SystemExit("refused")
    address = libc.shmat(key, None, 0)
    ctypes.memset(address, 1, 2**26)
    libc.shmdt(ctypes.c_void_p(address))
print("held")
""",
    "files in memory": """
import os
files = [os.memfd_create("x") for _ in range(40)]
for file in files: os.write(file, bytes(2**22))
print("held")
""",
    "large pipes": """
import fcntl, os
for _ in range(25):
    _, end = os.pipe()
    os.set_blocking(end, False)
    fcntl.fcntl(end, 1031, 2**20)
    os.write(end, bytes(2**20))
print("held")
""",
    "large sockets": """
import socket
kept = []
for _ in range(25):
    sender, reader = socket.socketpair()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**28)
    sender.setblocking(False)
    kept.append(reader)
    try:
        while True: sender.send(bytes(4096))
    except BlockingIOError: pass
print("held")
""",
    "pages given to a pipe": """
import ctypes, os
class Vector(ctypes.Structure): _fields_ = ("at", ctypes.c_void_p), ("size", ctypes.c_size_t)
page, (_, end) = ctypes.create_string_buffer(4096), os.pipe()
if ctypes.CDLL(None).vmsplice(end, ctypes.byref(Vector(ctypes.addressof(page), 4096)), 1, 0) < 0: raise SystemExit("no")
print("held")
""",
}


@pytest.mark.parametrize("source", HOLDING.values(), ids=HOLDING)
def test_memory_that_no_limit_counts_is_refused(source: str) -> None:
    need_bubblewrap()
    ending = execute(source, [ProgramRun()], limits=LIMITS, kind="bubblewrap").endings[0]
    assert ending.cause == "crash" and b"held" not in ending.printed
