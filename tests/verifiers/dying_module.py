"""A module whose process dies while it is loaded: the first time only if DYING_MODULE names a file, else always."""

import os
import signal
from pathlib import Path

mark = Path(os.environ.get("DYING_MODULE", ""))
if not mark.is_file():
    if str(mark) != ".":
        mark.write_text("")
    os.kill(os.getpid(), signal.SIGKILL)


def answer() -> int:
    return 42
