"""The command line of bubblewrap (0.8 or newer): the files that a program sees, and the user it runs as."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

NOBODY = 65534
FOLDER = "/work"  # writable for the program, in memory

# PYTHONHASHSEED fixes the order of sets, and so the verdict. -I and -E would ignore it; PYTHON has the rest of them.
PYTHON = ("-P", "-s", "-S", "-B", "-X", "utf8")
ENVIRONMENT = {"PYTHONHASHSEED": "0"}


@cache
def interpreter() -> str:
    """The executable of this interpreter, outside any virtual environment."""
    named = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return os.path.realpath(named if named.exists() else sys.executable)


def command(*, file_bytes: int, filter_descriptor: int) -> list[str]:
    """The command before the interpreter's arguments; seccomp.program() is read from `filter_descriptor`."""
    seccomp = ["--seccomp", str(filter_descriptor)]
    bwrap = ["bwrap", *_confinement(), *_view(), *_folder(file_bytes), *seccomp, "--"]
    return [*as_nobody(), *bwrap, interpreter(), *PYTHON]


def _confinement() -> list[str]:
    namespaces = [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup")]
    environment = [word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)]
    user = ["--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"]
    ends = ["--as-pid-1", "--die-with-parent", "--new-session"]
    return [*namespaces, "--disable-userns", "--cap-drop", "ALL", *user, *ends, "--clearenv", *environment]


def _folder(file_bytes: int) -> list[str]:
    return ["--size", str(file_bytes), "--tmpfs", FOLDER, "--chdir", FOLDER, "--remount-ro", "/"]


@cache
def _view() -> tuple[str, ...]:
    """Read-only mounts: the interpreter, its library without installed packages, system libraries, /proc, /dev/null."""
    words: list[str] = []
    for folder in ("/lib", "/lib64"):
        if Path(folder).is_symlink():
            words += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            words += ["--ro-bind", folder, folder]
    for path in visible():
        words += ["--ro-bind", path, path]
    for packages in _packages():
        words += ["--size", "4096", "--tmpfs", packages, "--remount-ro", packages]
    words += ["--proc", "/proc", "--remount-ro", "/proc"]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        words += ["--dev-bind", device, device]
    return tuple(words)


@cache
def visible() -> tuple[str, ...]:
    """Paths that a program can read, apart from /lib and /lib64."""
    prefix = Path(sys.base_prefix)
    own = [Path(interpreter()), prefix / "lib", prefix / "lib64"]
    system = [Path(path) for path in ("/usr/lib", "/usr/lib64", "/etc/ld.so.cache")]
    return tuple(dict.fromkeys(str(path) for path in [*system, *own] if path.exists() and not path.is_symlink()))


def _packages() -> list[str]:
    """Folders of installed packages inside the visible paths."""
    places = {Path(sys.base_prefix), Path("/usr")}
    folders = {path for place in places for path in place.glob("lib*/python3*/*-packages")}
    return sorted(str(path) for path in folders if path.is_dir() and str(path.resolve()) == str(path))


@cache
def as_nobody() -> tuple[str, ...]:
    """For root: run the rest as the user nobody, since Linux does not limit the number of root's processes.

    If the interpreter is in a folder closed to nobody, such as /root, it is mounted without the rest of that folder.
    """
    if os.geteuid() != 0 or not _is_mapped(NOBODY):
        return ()
    words: list[str] = []
    parents: list[str] = []
    outer: tuple[str, ...] = ()
    for path in visible():
        ancestors = [str(parent) for parent in reversed(Path(path).parents)]
        closed = next((i for i, parent in enumerate(ancestors) if not Path(parent).stat().st_mode & 1), None)
        if closed is None:
            continue
        for number, parent in enumerate(ancestors[closed:]):
            if parent not in parents:
                words += ["--perms", "0755", "--dir" if number else "--tmpfs", parent]
                parents.append(parent)
        words += ["--ro-bind", path, path]
    if words:
        # It needs its own process namespace: it has no right to kill nobody's processes, except by ending their
        # namespace. Linux lets the inner bubblewrap mount its /proc only while another one is fully visible, which
        # bubblewrap's own is not.
        start = ("bwrap", "--unshare-pid", "--die-with-parent", "--dev-bind", "/", "/")
        outer = (*start, *words, "--proc", "/proc", "--dev-bind", "/proc", f"{parents[0]}/.proc", "--")
    return *outer, "setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--"


def _is_mapped(user: int) -> bool:
    """Whether this user exists here. In a container of an ordinary user it may not."""
    rows = [
        [int(word) for word in line.split()]
        for line in Path("/proc/self/uid_map").read_text(encoding="utf-8").splitlines()
    ]
    return any(first <= user < first + count for first, _, count in rows)
