"""A module that takes longer to load than the deadlines of its calls."""

import time

time.sleep(1.5)


def answer() -> int:
    return 42
