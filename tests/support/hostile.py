"""Hostile programs, and a script that judges them all while canaries watch the host.

`python hostile.py FOLDER HOME REPOSITORY`, where HOME is a JSON list of paths, prints a line of JSON for each program
and one for the canaries. It needs nothing but rlvr.verifiers, so that any user with a Python interpreter can run it.
A program that gets out prints "escaped" and ends well; one that is held ends with an error.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LIMITS: dict[str, Any] = {
    "wall_seconds": 2.5,
    "cpu_seconds": 1.0,
    "memory_mib": 256,
    "file_mib": 8,
    "processes": 8,
    "output_kib": 64,
}

PRELUDE = """
import ctypes, gc, mmap, os, re, resource, signal, socket, subprocess, sys, threading, time
def none_of(*actions):
    for action in actions:
        try:
            action()
        except Exception:
            continue
        print("escaped")
        sys.exit(0)
    sys.exit("held")
def syscall(number, *arguments):
    if ctypes.CDLL(None).syscall(number, *arguments) < 0:
        raise OSError("refused")
def stay():
    os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(60)  # TOKEN"])
"""

# name: the cause that it is counted by ("plain" is an ordinary wrong answer; a bar stands between several), the program
PROGRAMS = {
    "fork bomb": ("crash", "while True: os.fork()"),
    "fork bomb that goes on": (
        "timeout",
        "while True:\n    try: os.fork()\n    except OSError: pass",
    ),
    "subprocess bomb": (
        "crash|timeout",
        "while True: subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)  # TOKEN'])",
    ),
    "thread bomb": ("crash|timeout", "while True: threading.Thread(target=time.sleep, args=(60,)).start()"),
    "100 GB at once": ("memory", "x = bytearray(10**11)"),
    "a list that grows": ("memory", "x = []\nwhile True: x.append('a' * 10**6 + str(len(x)))"),
    "100 GB mapped": ("crash", "mmap.mmap(-1, 10**11)"),
    "memory of many children": (
        "memory",
        "for _ in range(4):\n    if os.fork() == 0:\n        x = bytearray(10**8); time.sleep(60)\n"
        "x = bytearray(10**9)",
    ),
    "endless output": ("output", "while True: print('x' * 1000)"),
    "endless errors": ("output", "while True: print('x' * 1000, file=sys.stderr)"),
    "endless raw output": ("output", "while True: os.write(1, b'x' * 10000)"),
    "one long line": ("output", "print('x' * 10**7)"),
    "endless output of a child": (
        "output",
        "os.fork()\nwhile True: os.write(1, b'x' * 10000)",
    ),
    "endless loop": ("timeout", "while True: pass"),
    "sleep": ("timeout", "time.sleep(1000)"),
    "waits for input that never comes": ("timeout", "a, b = os.pipe()\nos.read(a, 1)"),
    "daemon": ("plain", "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: stay()\n    os._exit(0)"),
    "daemon that ignores signals": (
        "plain",
        "if os.fork() == 0:\n    os.setsid()\n    for s in (1, 2, 3, 15): signal.signal(s, signal.SIG_IGN)\n    stay()",
    ),
    "new session in the way": ("timeout", "if os.fork() == 0:\n    os.setsid()\n    stay()\ntime.sleep(60)"),
    "writes outside": (
        "crash",
        "none_of(*[lambda f=f: open(f + '/escaped', 'w') for f in\n"
        "    ('/', '/tmp', '/usr', '/usr/lib', '/dev', '/dev/shm', '/proc', '/root', '/home', '/etc', 'FOLDER')])",
    ),
    "writes to the interpreter": (
        "crash",
        "none_of(lambda: open(sys.executable, 'ab'), lambda: open(os.__file__, 'ab'), lambda: os.unlink(os.__file__))",
    ),
    "writes to its own executable": ("crash", "none_of(lambda: open('/proc/self/exe', 'r+b'))"),
    "symbolic link to a host file": (
        "crash",
        "os.symlink('FOLDER/canary', 'x')\nnone_of(lambda: open('x').read(), lambda: open('x', 'w'))",
    ),
    "hard link": ("crash", "none_of(lambda: os.link(os.__file__, 'x'), lambda: os.link('FOLDER/canary', 'y'))"),
    "rename out of the folder": ("crash", "open('x', 'w')\nnone_of(lambda: os.rename('x', '/tmp/x'))"),
    "the root of process 1": (
        "crash",
        "none_of(*[lambda p=p: open(p + 'FOLDER/canary') for p in\n"
        "    ('/proc/1/root', '/proc/self/root', '/proc/1/cwd/..', '/proc/1/task/1/root', '/work/../..')])",
    ),
    "/etc/shadow": ("crash", "none_of(lambda: open('/etc/shadow'), lambda: open('/proc/1/root/etc/shadow'))"),
    "/etc/passwd": ("crash", "none_of(lambda: open('/etc/passwd'), lambda: open('/etc/hostname'))"),
    "home": ("crash", "none_of(*[lambda p=p: os.stat(p) for p in HOME_ENTRIES])"),
    "the repository": (
        "crash",
        "none_of(lambda: os.listdir('REPOSITORY'), lambda: os.stat('REPOSITORY'), lambda: __import__('rlvr'))",
    ),
    "installed packages": (
        "crash",
        "none_of(*[lambda n=n: __import__(n) for n in ('site_packages', 'pip', 'torch', 'pytest')])",
    ),
    "a secret in the environment": (
        "crash",
        "seen = [*os.environ, *open('/proc/self/environ'), *open('/proc/1/environ')]\n"
        "none_of(lambda: [s for s in seen if 'RLVR_TEST_SECRET' in s][0])",
    ),
    "processes of the host": (
        "crash",
        "none_of(lambda: [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())][0])",
    ),
    "TCP to the host": ("crash", "none_of(lambda: socket.create_connection(('127.0.0.1', TCP), 1))"),
    "UDP to the host": (
        "crash",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP))  # to a network of its own\n"
        "sys.exit('held')",
    ),
    "IPv6 and the outside": (
        "crash",
        "none_of(*[lambda h=h: socket.create_connection((h, TCP), 1) for h in ('::1', '192.168.0.1', '1.1.1.1')])",
    ),
    "unix socket": ("crash", "none_of(lambda: socket.socket(socket.AF_UNIX).connect('FOLDER/socket'))"),
    "abstract unix socket": ("crash", "none_of(lambda: socket.socket(socket.AF_UNIX).connect('\\0rlvr-TOKEN'))"),
    "kill everyone": ("crash", "none_of(lambda: os.kill(-1, 9))"),
    "kill the parent": ("crash", "os.kill(os.getppid(), 9)\nos.kill(os.getppid(), 19)\nsys.exit('held')"),
    "kill the verifier": ("crash", "none_of(lambda: os.kill(VERIFIER, 9), lambda: os.killpg(VERIFIER, 9))"),
    "kill all numbers": (
        "crash",
        "for p in range(2, 70000):\n    try: p != os.getpid() and os.kill(p, 9)\n    except OSError: pass\n"
        "sys.exit('held')",
    ),
    "ptrace process 1": ("crash", "none_of(lambda: syscall(101, 16, 1, 0, 0))"),
    "mount": ("crash", "none_of(lambda: syscall(165, b'x', b'/work', b'tmpfs', 0, 0))"),
    "unshare": ("crash", "none_of(lambda: syscall(272, 0x10000000), lambda: syscall(272, 0x00020000))"),
    "clone into a user namespace": ("crash", "none_of(lambda: syscall(56, 0x10000000 | 17, 0, 0, 0, 0))"),
    "keyctl, bpf, io_uring": (
        "crash",
        "none_of(lambda: syscall(250, 0, 0), lambda: syscall(321, 0, 0, 0), lambda: syscall(425, 1, 0))",
    ),
    "chroot": ("crash", "none_of(lambda: os.chroot('/work'))"),
    "mknod": ("crash", "none_of(lambda: os.mknod('x', 0o60666, os.makedev(254, 0)))"),
    "setuid": ("crash", "none_of(lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]))"),
    "raises its limits": (
        "crash",
        "none_of(*[lambda k=k: resource.setrlimit(k, (2**40, 2**40)) for k in\n"
        "    (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE)])",
    ),
    "sysctl": (
        "crash",
        "none_of(*[lambda f=f: open(f, 'w') for f in ('/proc/sys/kernel/hostname', '/proc/sysrq-trigger',\n"
        "    '/proc/sys/vm/drop_caches', '/proc/sys/user/max_user_namespaces', '/proc/sys/kernel/core_pattern')])",
    ),
    "host name": ("crash", "none_of(lambda: socket.sethostname('escaped'))"),
    "a shell": (
        "crash",
        "none_of(lambda: subprocess.run(['/bin/sh', '-c', 'true'], check=True), lambda: subprocess.run(['true']))",
    ),
    "a million open files": ("crash", "x = [open('a', 'w') for _ in range(10**6)]"),
    "a million files": ("crash|timeout", "for i in range(10**8): open(str(i), 'w').write('x')"),
    "a full disk": (
        "crash",
        "for i in range(1000):\n    with open(str(i), 'wb') as f: f.write(bytes(2**20))",
    ),
    "sparse terabyte": ("crash", "with open('x', 'wb') as f: f.truncate(10**12)"),
    "shared memory": (
        "crash",
        "none_of(lambda: __import__('multiprocessing.shared_memory').shared_memory.SharedMemory('x', True, 100))",
    ),
    "deep recursion": ("crash|memory|timeout", "sys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()"),
    "segmentation fault": ("crash", "ctypes.string_at(0)"),
    "aborts": ("crash", "os.abort()"),
    "kills itself": ("crash", "os.kill(os.getpid(), 9)"),
    "9**9**9**9": ("timeout|memory", "x = 9**9**9**9"),
    "catastrophic regex": ("timeout", "re.match('(a+)+$', 'a' * 40 + 'b')"),
    "invalid UTF-8": ("plain", "os.write(1, b'\\xff\\xfe\\x80')"),
    "surrogates": ("crash", "print('\\ud800')"),
    "deep nesting": ("unparsable", "x = " + "(" * 5000 + ")" * 5000),
    "many unary operators": ("unparsable|crash|memory", "x = " + "-" * 200000 + "1"),
    "null bytes": ("unparsable", "x = 1\0"),
    "no Python": ("unparsable", "The answer is 4."),
    "imports the harness": (
        "crash",
        "none_of(lambda: __import__('rlvr.verifiers.sandbox.harness'), lambda: __import__('harness'))",
    ),
    "closes all descriptors": ("plain|crash", "os.closerange(0, 10000)"),
    "writes to all descriptors": (
        "plain|output",
        "for d in range(256):\n    try: os.write(d, b'run 0 0 0 0 0\\n')\n    except OSError: pass",
    ),
    "writes to descriptors of process 1": (
        "plain|output|crash|timeout",
        "for d in range(64):\n"
        "    try:\n        f = os.open(f'/proc/1/fd/{d}', os.O_WRONLY)\n"
        "        while d > 2: os.write(f, b'run 0 8 8 0 0\\nescaped\\n' * 100)\n"
        "    except OSError: pass",
    ),
    "stops itself": ("timeout", "os.kill(os.getpid(), signal.SIGSTOP)"),
    "ignores every signal": (
        "timeout",
        "for s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: pass",
    ),
    "ends well without an answer": ("plain", "os._exit(0)"),
}

SECRET = "result-that-no-program-can-know-7f3a91"
FORGERY_TESTS: list[dict[str, Any]] = [
    {"call": "f", "args": [3], "result": SECRET},
    {"assert": f"assert f(4) == '{SECRET}'"},
    {"stdin": "5\n", "stdout": SECRET},
]
ALWAYS_EQUAL = (
    "class E(KIND):\n    def __eq__(self, other): return True\n    __hash__ = KIND.__hash__\nf = lambda x: E()"
)
# Programs that try to pass without knowing the results; none may pass one test.
FORGERIES = {
    "ends with status 0": "os._exit(0)",
    "exits": "sys.exit(0)",
    "exits in the call": "def f(x): os._exit(0)",
    "raises SystemExit in the call": "def f(x): raise SystemExit(0)",
    "an object that equals all": ALWAYS_EQUAL.replace("KIND", "object"),
    "a text that equals all": ALWAYS_EQUAL.replace("KIND", "str"),
    "a list that equals all": ALWAYS_EQUAL.replace("KIND", "list").replace("list.__hash__", "None"),
    "an object that lies about its class": "class E:\n    __class__ = str\nf = lambda x: E()",
    "other builtins": "import builtins\nfor n in ('isinstance', 'eval', 'exec', 'str', 'len', 'repr', 'type'):\n"
    "    setattr(builtins, n, lambda *a, **k: True)\nf = lambda x: True",
    "another json": "import json\njson.loads = json.dumps = lambda *a, **k: True\nf = lambda x: True",
    "prints what might be a marker": "print('passed', 'ok', 'True', 'tests_passed: 3', sep='\\n')\nf = print",
    "prints at exit": "import atexit\natexit.register(print, 'passed')\nf = lambda x: None",
    "replies by itself": "os.write(3, b'[\"value\",true]\\n' * 9)\nos._exit(0)",
    "replies with nonsense": 'os.write(3, b\'\\xff[[[\\n{}\\n[]\\n["value",["list",5]]\\n\')\nos._exit(0)',
    "replies nested deeply": "os.write(3, b'[\"value\",' + b'[\"list\",[' * 5000 + b'\\n')\nos._exit(0)",
    "reports by itself": "for d in range(64):\n"
    "    try: os.write(os.open(f'/proc/1/fd/{d}', 1), b'run 0 0 7 0 0\\npassed\\n' * 3)\n    except OSError: pass",
    "reads the frames": """
def look():
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            at = repr(value).find('result-' + 'that')
            if at >= 0: return repr(value)[at:][:38]
        frame = frame.f_back
print(look())
f = lambda x: look()""",
    "reads all objects": """
def look():
    for value in gc.get_objects():
        for inner in gc.get_referents(value):
            if type(inner) is str and inner.startswith('result-' + 'that'): return inner
print(look())
f = lambda x: look()""",
    "reads the memory of process 1": """
def look():
    for line in open('/proc/1/maps'):
        first, last = (int(word, 16) for word in line.split()[0].split('-'))
        try:
            with open('/proc/1/mem', 'rb') as memory:
                memory.seek(first)
                data = memory.read(last - first)
            at = data.find(b'result-' + b'that')
            if at >= 0: return data[at:at + 38].decode()
        except (OSError, OverflowError, ValueError): pass
print(look())
f = lambda x: look()""",
    "reads its own input and files": """
def look():
    found = ''
    for path in ('/proc/self/fd/0', '/proc/1/fd/0', '/proc/1/cmdline'):
        try: found += open(path).read()
        except OSError: pass
    return found[found.find('result-' + 'that'):][:38]
print(look())
f = lambda x: look()""",
    "leaves a note for the next run": "open('note', 'a').write('x')\nf = lambda x: open('note').read()",
    "a list inside itself": "x = []\nx.append(x)\nf = lambda n: x",
    "a huge number": "f = lambda x: 10**100000",
    "a generator": "def f(x): yield 1",
    "asks for MemoryError": "def f(x): raise MemoryError(b'' * 10)",
    "no function": "g = 1",
}


def verified(source: str, tests: list[dict[str, Any]]) -> tuple[dict[str, Any], float]:
    from rlvr.verifiers.python import verify  # noqa: PLC0415  (rlvr comes from PYTHONPATH here)

    started = time.monotonic()
    verdict = verify(source, json.dumps(tests), kind="bubblewrap", **LIMITS)
    return verdict.to_json() | {"details": dict(verdict.details)}, time.monotonic() - started


def filled(source: str, facts: dict[str, str]) -> str:
    for name, value in facts.items():
        source = source.replace(name, value)
    return source


def survivors(token: str) -> list[str]:
    """Command lines of processes of this machine that a hostile program left behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if token in text and "hostile.py" not in text:
            found.append(text)
    return found


def results(folder: Path, home: str, repository: str) -> Iterator[dict[str, Any]]:
    token = f"token{os.getpid()}x{time.time_ns()}"
    os.environ["RLVR_TEST_SECRET"] = token
    listeners = [socket.socket(), socket.socket(type=socket.SOCK_DGRAM), *(socket.socket(socket.AF_UNIX) for _ in "12")]
    loopback = ("127.0.0.1", 0)
    addresses: list[Any] = [loopback, loopback, str(folder / "socket"), f"\0rlvr-{token}"]
    for listener, address in zip(listeners, addresses, strict=True):
        listener.bind(address)
        listener.setblocking(False)
    for listener in (listeners[0], *listeners[2:]):
        listener.listen()
    (folder / "canary").write_text("alive")
    facts = {
        "TOKEN": token,
        "FOLDER": str(folder),
        "REPOSITORY": repository,
        "HOME_ENTRIES": home,
        "TCP": str(listeners[0].getsockname()[1]),
        "UDP": str(listeners[1].getsockname()[1]),
        "VERIFIER": str(os.getpid()),
    }
    before = sorted(path.name for path in folder.iterdir())

    def one(item: tuple[str, str, str, list[dict[str, Any]]]) -> dict[str, Any]:
        group, name, source, tests = item
        verdict, seconds = verified(filled(PRELUDE + source, facts), tests)
        return {"group": group, "name": name, "verdict": verdict, "seconds": seconds}

    good: list[dict[str, Any]] = [{"stdin": "4\n", "stdout": "8\n"}, {"call": "double", "args": [4], "result": 8}]
    program = "def double(x):\n    return 2 * x\nif __name__ == '__main__':\n    print(double(int(input())))"
    work = [("program", name, source, good[:1]) for name, (_, source) in PROGRAMS.items()]
    work += [("forgery", name, source, FORGERY_TESTS) for name, source in FORGERIES.items()]
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(one, work)
    yield one(("good", "a good program afterwards", program, good))
    heard = []
    for listener in listeners:
        try:
            heard.append(str(listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()))
        except BlockingIOError:
            continue
    after = sorted(path.name for path in folder.iterdir())
    changed = [] if before == after and (folder / "canary").read_text() == "alive" else after
    yield {"group": "canaries", "heard": heard, "survivors": survivors(token), "changed": changed, "uid": os.getuid()}


if __name__ == "__main__":
    for result in results(Path(sys.argv[1]), *sys.argv[2:]):
        print(json.dumps(result), flush=True)
