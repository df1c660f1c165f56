"""`python -m rlvr STAGE`, as dvc.yaml calls it."""

import sys

try:
    from rlvr.cli import main
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {sys.executable} has no module {error.name}: it is not the Python that rlvr was installed for. "
        "Activate that environment first (after `make run`: source .venv/bin/activate)."
    )

main()
