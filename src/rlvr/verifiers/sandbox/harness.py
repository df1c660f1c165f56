"""The program inside the sandbox: it runs an untrusted program several times and reports the output of each run.

It is never imported: the sandbox compiles this file and passes it to a fresh interpreter, which calls `main`. Nothing
here has to be trusted once the program runs, since no expected result is ever in the sandbox: the program can forge
only its own output. It imports little: signal and typing would make a run 1.5 times as expensive. The report on
file descriptor 1 is

    ready                                    before anything of the program is touched
    compiled | unparsable HEX                HEX is the message in UTF-8
    run STATUS SIZE PRINTED ERRORS REPLIES   for each run; then that many bytes of standard output, of the end of
                                             standard error, and of the replies to calls. SIZE is the whole output.
"""

from __future__ import annotations

import builtins
import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGKILL, SIGXCPU = 9, 24
ERROR_BYTES = 2000  # read from the end of standard error
REPLIES = 3  # the file descriptor for replies to calls


def main(job: dict[str, Any]) -> None:
    """Run `job`. It returns in each child process, when the program is about to end."""
    _limit(job)
    report = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.write(report, b"ready\n")
    try:
        program = compile(job["source"], "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        text = f"{type(error).__name__}: {error}"[:ERROR_BYTES]
        _write(report, b"unparsable %s\n" % text.encode("utf-8", "replace").hex().encode())
        return
    _write(report, b"compiled\n")
    for number, run in enumerate(job["runs"]):
        files = [_file(f".{number}.{name}") for name in ("stdin", "stdout", "stderr", "replies")]
        _write(files[0], run["stdin"])
        os.lseek(files[0], 0, os.SEEK_SET)
        child = os.fork()
        if child == 0:
            _become(files)
            _play(program, run["calls"])
            return
        status = _wait(child, job["cpu_seconds"])
        _tell(report, status, files, job["output_bytes"])
    os._exit(0)


def _limit(job: dict[str, Any]) -> None:
    """Set limits that the program inherits and cannot raise. A lower limit that is already set stays."""
    bounds = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (job["cpu_seconds"], job["cpu_seconds"] + 1),
        resource.RLIMIT_AS: (job["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (job["file_bytes"],) * 2,
        resource.RLIMIT_NOFILE: (job["open_files"],) * 2,
    }
    if os.getpid() == 1:  # otherwise the limit would count all processes of the user
        bounds[resource.RLIMIT_NPROC] = (job["processes"] + 1,) * 2
    for kind, wanted in bounds.items():
        allowed = resource.getrlimit(kind)[1]
        lower = [value if allowed == resource.RLIM_INFINITY else min(value, allowed) for value in wanted]
        resource.setrlimit(kind, (lower[0], lower[1]))


def _file(name: str) -> int:
    """A file without a name in the program's folder."""
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(name)  # noqa: PTH108  (pathlib costs more than starting the interpreter)
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _become(files: list[int]) -> None:
    for descriptor, file in enumerate([os.dup(file) for file in files]):
        os.dup2(file, descriptor)
    os.closerange(REPLIES + 1, 256)


def _wait(child: int, cpu_seconds: int) -> int:
    """The child's exit status, or minus the signal that ended it. As init, also kill everything that it started."""
    ended, status, used = os.wait3(0)
    while ended != child:
        ended, status, used = os.wait3(0)
    if os.getpid() == 1:
        try:
            os.kill(-1, SIGKILL)
            while True:
                os.wait()
        except (ProcessLookupError, ChildProcessError):
            pass
    code = os.waitstatus_to_exitcode(status)
    is_over = code == -SIGKILL and used.ru_utime + used.ru_stime >= cpu_seconds
    return -SIGXCPU if is_over else code


def _tell(report: int, status: int, files: list[int], output_bytes: int) -> None:
    sizes = [os.fstat(file).st_size for file in files]
    printed = os.pread(files[1], output_bytes, 0)
    errors = os.pread(files[2], ERROR_BYTES, max(0, sizes[2] - ERROR_BYTES))
    replies = os.pread(files[REPLIES], output_bytes, 0)
    head = b"run %d %d %d %d %d\n" % (status, max(sizes[1:]), len(printed), len(errors), len(replies))
    _write(report, head + printed + errors + replies)
    for file in files:
        os.close(file)


def _play(program: Any, calls: list[dict[str, Any]] | None) -> None:
    """Run the program as a script, or load it as a module and reply to `calls`, one line each."""
    module = type(sys)("program" if calls is not None else "__main__")
    sys.modules[module.__name__] = module
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # as the module site does, which is not loaded here
    space = module.__dict__
    exec(program, space)
    for call in calls or ():
        _write(REPLIES, f"{_reply(space, call)}\n".encode())


def _reply(space: dict[str, Any], call: dict[str, Any]) -> str:
    """`["value", VALUE]`, `["raised", TEXT]`, or `["other", TEXT]` for a value that cannot be compared."""
    try:
        value = _result(space, call)
    except Exception as error:
        return f'["raised",{_encode(f"{type(error).__name__}: {error}"[:ERROR_BYTES])}]'
    try:
        return f'["value",{_encode(value)}]'
    except Exception as error:
        return f'["other",{_encode(f"{type(error).__name__}: {error}"[:ERROR_BYTES])}]'


def _result(space: dict[str, Any], call: dict[str, Any]) -> Any:
    if "expression" in call:
        exec(call["before"], space)
        return eval(call["expression"], space)
    if call["name"] not in space:
        raise NameError(f"name {call['name']!r} is not defined")
    return space[call["name"]](*call["args"], **call["kwargs"])


def _encode(value: Any) -> str:
    """JSON that keeps Python's types: numbers and text as `[type, text]`, collections as `[type, [...]]`."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int):
        return f'["int","{int.__index__(value):x}"]'
    if isinstance(value, float):
        return f'["float","{float.__repr__(value)}"]'
    for module, name in (("builtins", "complex"), ("decimal", "Decimal"), ("fractions", "Fraction")):
        kind = getattr(sys.modules.get(module), name, None)  # not imported here: a value of it comes with its module
        if kind is not None and isinstance(value, kind):
            return f'["{name}","{kind.__str__(value)}"]'
    if isinstance(value, str):
        return f'["str","{str.encode(value, "utf-8", "surrogatepass").hex()}"]'
    if isinstance(value, bytes):
        return f'["bytes","{bytes.hex(value)}"]'
    if isinstance(value, dict):
        pairs = (f"[{_encode(key)},{_encode(item)}]" for key, item in dict.items(value))
        return f'["dict",[{",".join(pairs)}]]'
    kinds: tuple[Any, ...] = (list, tuple, set, frozenset)
    for kind in kinds:
        if isinstance(value, kind):
            return f'["{kind.__name__}",[{",".join(_encode(item) for item in kind.__iter__(value))}]]'
    raise TypeError(f"a result of type {type(value).__name__} cannot be compared")
