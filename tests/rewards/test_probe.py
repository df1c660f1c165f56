"""The user's functions are loaded before they are needed: what cannot work is said at once, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import Config
from rlvr.rewards.probe import check_functions
from rlvr.types import UserError

SOURCE = """
import mmap
from functools import partial
def f(completion, *, low): return low
half = partial(f, low=0.5)
def takes_nothing(): ...
found = takes_nothing
"""


@pytest.fixture
def own(make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Check a rubric with one function of user/mine.py."""
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path)

    def check(function: str, source: str = SOURCE, *, reward: dict[str, Any] | None = None, **changes: Any) -> None:
        Path("user/mine.py").write_text(source)
        rewards = {"mine": {"python": f"user/mine.py:{function}", "weight": 1.0} | (reward or {})}
        cfg = make_config({"rewards": rewards, "verifiers.workers": 1} | changes)
        check_functions(cfg.rewards, cfg.verifiers)

    return check


def test_what_can_be_called_is_fine(own: Callable[..., None]) -> None:
    own("half")
    own("half", reward={"options": {"low": 1.0}})
    own("f", reward={"options": {"low": 1.0}})


def test_parameters_are_those_of_the_running_file(own: Callable[..., None]) -> None:
    with pytest.raises(UserError, match="no parameter for the option high"):
        own("half", reward={"options": {"high": 1.0}})
    with pytest.raises(UserError, match="it has neither completion nor completions"):
        own("found")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_library\ndef f(completion): ...", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def f(completion): ...\n1 / 0", "ZeroDivisionError"),
        ("if False:\n    def f(completion): ...", "user/mine.py has no function 'f'"),
        ("f = 3", "user/mine.py has no function 'f'"),
        ("import os\ndef f(completion): ...\nos._exit(3)", "exit status 3"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(own: Callable[..., None], source: str, said: str) -> None:
    with pytest.raises(UserError, match=r"rewards.mine: user/mine.py:f cannot be loaded: ") as raised:
        own("f", source)
    assert said in str(raised.value)


@pytest.mark.parametrize("failing", ["held = mmap.mmap(-1, 2**29)", "held = bytearray(2**29)", "import torch"])
def test_a_library_that_needs_more_memory_says_so(own: Callable[..., None], failing: str) -> None:
    limits = {"verifiers.memory_mib": 400, "verifiers.python.memory_mib": 256}
    with pytest.raises(UserError, match=r"in 400 MiB of address space \(.*\), while it takes [\d,]+ MiB to load: raise "
                                        r"verifiers.memory_mib to \d+ or more"):  # fmt: skip
        own("f", f"import mmap\n{failing}\ndef f(completion): return 1.0", **limits)


def test_a_verifier_is_loaded_too(own: Callable[..., None]) -> None:
    with pytest.raises(UserError, match=r"verifiers.answer: user/mine.py:f cannot be loaded: .*ZeroDivisionError"):
        own("g", "def f(answer, gold): ...\ndef g(completion): ...\n1 / 0", **{"verifiers.answer": "user/mine.py:f"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verifiers.answer": "user/mine.py:nothing"}, "defines no function 'nothing'"),
        ({"verifiers.answer": "user/mine.py"}, "must be FILE:FUNCTION"),
        ({"verifiers.answer": "numbers"}, "did you mean number\\?; name your own by its file"),
        ({"rewards.mine.sandbox": True}, "sandbox and messages are for your own functions"),
    ],
)
def test_settings_that_cannot_work_are_refused(own: Callable[..., None], changes: dict[str, Any], message: str) -> None:
    reward: dict[str, Any] = {"python": None, "function": "random", "options": {"low": 0.0, "high": 1.0}}
    reward |= {"sandbox": True} if "rewards.mine.sandbox" in changes else {}
    changes = {key: value for key, value in changes.items() if not key.startswith("rewards")}
    with pytest.raises(ValueError, match=message):
        own("f", reward=reward, **changes)
