"""`python -m rlvr STAGE`, as dvc.yaml calls it."""

import signal
import sys

from rlvr.runtime.lifetime import die_with_parent, end_without_parent

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a stage that has nothing to save, without a traceback


def main() -> None:
    die_with_parent()  # before the slow imports: a trainer whose engine is killed meanwhile would run on alone
    end_without_parent()
    try:
        from rlvr import cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: {sys.executable} has no module {error.name}: it is not the Python that rlvr was installed for. "
            "Activate that environment first (after `make run`: source .venv/bin/activate)."
        )
    cli.main()


main()
