"""What a machine refuses, in words: another encoding, a full disk, a folder without permission, too little memory."""

from __future__ import annotations

import codecs
import errno
import io
import locale
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rlvr.types import UserError

TORCH = ("unexpected pos", "iostream error")  # all that its writer of archives tells of a full disk
NO_SPACE = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122", *TORCH)
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # of oneDNN, and of torch's own layer above it
CACHED = 64  # shapes; 1,024 without a limit, and 0 would compile at each call
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # today's, and older names
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def speak_utf8() -> None:
    """Start this program again in Python's UTF-8 mode where the locale has another encoding.

    The mode covers what no argument of ours can: file names, files that other packages open, and what is printed.
    """
    if not sys.flags.utf8_mode and codecs.lookup(locale.getpreferredencoding(do_setlocale=False)).name != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    if isinstance(sys.stdout, io.TextIOWrapper):  # half a character of a broken text is printed as its number
        sys.stdout.reconfigure(errors="backslashreplace")


def bound_memory() -> None:
    """Keep memory flat where every batch has another shape. To be called before torch is imported.

    Segments of torch's allocator on a GPU can grow: those of a fixed size leave up to half of what comes and goes
    unused, by benchmarks/gpu/simulate.py. What the environment sets already stays.
    """
    for name in CACHES:
        os.environ.setdefault(name, str(CACHED))
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


def check_folder() -> None:
    """Raises UserError for a folder that DVC takes for a pattern: it fails after the stage has run."""
    folder = str(Path.cwd())
    if "{" in folder or "}" in folder:
        raise UserError(f"DVC cannot work in {folder}: it reads braces in a path as a pattern; rename that folder")


def check_writable(folders: Iterable[Path]) -> None:
    """Raises UserError for a folder that cannot be made or written to, with the reason."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
        except OSError as error:
            reason = explain(error) or f"{error.strerror}: make it a folder that can be written to"
            raise UserError(f"{folder} is where the results go, and cannot be written to: {reason}") from None


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk had no room: the libraries that write weights and tables raise errors of other types."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in NO_SPACE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the card or of this machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def explain(error: BaseException) -> str | None:
    """What the machine refused and what to do; None where the error is another one."""
    if is_disk_full(error):
        return f"no space left on the disk{_of(error)}: free some, then run the same command again"
    if is_out_of_memory(error):
        return (
            f"out of memory: {_first_line(error)}\nMake the run smaller (in this order: memory.tokens_per_micro_batch, "
            "memory.tile_rows, rollout.max_rows, rollout.max_completion_tokens), or end what else uses the memory; "
            "`rlvr plan` shows what fits"
        )
    if isinstance(error, OSError) and error.errno in REFUSED:
        return f"no permission{_of(error)} ({error.strerror}): change who may write there, or work in another folder"
    return None


def _of(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return f" of {name}" if name else f" of {Path.cwd()}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
