"""Reward functions of the user's own: read without being run, called as their signature says, nonsense refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.custom import call, check, check_columns

ROOT = Path(__file__).parent.parent.parent
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Put a source into user/mine.py of an empty project; the path as params.yaml would name it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user").mkdir()

    def file(source: str, name: str = "user/mine.py") -> str:
        Path(name).write_text(source)
        return name

    return file


def item(completion: str = "one two", **columns: Any) -> dict[str, Any]:
    return {"completion": completion, "prompt": "Q?", "num_tokens": 7, "answer": "3", "columns": columns}


def points(path: str, function: str, *items: dict[str, Any], **options: Any) -> list[float | None]:
    return call(path=path, function=function, items=list(items) or [item()], options=options)


def test_a_signature_is_read_and_the_file_is_not_run(write: Write) -> None:
    path = write("raise SystemExit\nasync def f(completion, topic, level=1, *, weight, **columns): ...")
    signature = check(f"{path}:f", options={"weight": 1})
    assert (signature.path, signature.function, signature.is_batch) == (path, "f", False)
    assert (signature.required, signature.optional, signature.options) == (("topic",), ("level",), ("weight",))
    assert signature.takes_columns
    check_columns(signature, {"topic", "source"})
    with pytest.raises(ValueError, match=r"asks for topic, .* the columns are source, topics; did you mean topics\?"):
        check_columns(signature, {"topics", "source"})


def test_what_the_pipeline_fills_is_no_column(write: Write) -> None:
    path = write("def f(prompts, completions, num_tokens, answers): ...\ndef g(completion, prompt, answer): ...")
    assert check(f"{path}:f", options={}).is_batch
    for name in "fg":
        signature = check(f"{path}:{name}", options={})
        assert signature.required == signature.optional == ()
        check_columns(signature, set())


@pytest.mark.parametrize(
    ("source", "spec", "options", "message"),
    [
        ("", "user/mine.py", [], "must be FILE:FUNCTION, for example user/my_rewards.py:robotic"),
        ("", "user/mine.txt:f", [], "must be FILE:FUNCTION"),
        ("", "user/mine.py:a b", [], "must be FILE:FUNCTION"),
        ("", "user/../mine.py:f", [], "must be inside user/"),
        ("", "/etc/mine.py:f", [], "must be inside user/"),
        ("", "user/nine.py:f", [], r"does not exist; the files are user/mine.py; did you mean user/mine.py\?"),
        ("def f(:", "user/mine.py:f", [], "user/mine.py line 1 is not valid Python"),
        ("x = '\0'", "user/mine.py:f", [], "user/mine.py.* is not valid Python"),
        ("def robotic(completion): ...", "user/mine.py:robotc", [], r"it has robotic; did you mean robotic\?"),
        ("f = len", "user/mine.py:f", [], "it has none"),
        ("def f(text): ...", "user/mine.py:f", [], r"neither completion nor completions(.|\n)*def robotic"),
        ("def f(): ...", "user/mine.py:f", [], r"\(no parameters\)"),
        ("def f(completion, prompts): ...", "user/mine.py:f", [], "prompts belongs to the batch form"),
        ("def f(completions, completion): ...", "user/mine.py:f", [], "completion belongs to the single form"),
        ("def f(completion, *more): ...", "user/mine.py:f", [], r"so \*args"),
        ("def f(completion, /): ...", "user/mine.py:f", [], "positional-only"),
        ("def f(completion, *, low): ...", "user/mine.py:f", ["lo"], r"the option lo; did you mean low\?"),
        ("def f(completion, answer): ...", "user/mine.py:f", ["answer"], "answer cannot be an option"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_is_allowed(
    write: Write, source: str, spec: str, options: list[str], message: str
) -> None:
    write(source)
    with pytest.raises(ValueError, match=message):
        check(spec, options=dict.fromkeys(options, 1.0))


@pytest.mark.parametrize("value", [date(2026, 1, 2), math.nan, [math.inf], {"a": {1}}])
def test_options_that_no_worker_can_be_given_are_refused(write: Write, value: Any) -> None:
    path = write("def f(completion, *, since): ...")
    with pytest.raises(ValueError, match=r"options.since: .* must be a number, a text.* put a date in quotes"):
        check(f"{path}:f", options={"since": value})


def test_a_link_out_of_user_is_refused(write: Write) -> None:
    write("def f(completion): ...", "elsewhere.py")
    Path("user/link.py").symlink_to("../elsewhere.py")
    with pytest.raises(ValueError, match="must be inside user/"):
        check("user/link.py:f", options={})


def test_the_single_form_gets_what_it_asks_for(write: Write) -> None:
    path = write(
        "seen = []\n"
        "def f(completion, prompt, num_tokens, answer, topic, missing, level=9, *, bonus, **columns):\n"
        "    seen.append((completion, prompt, num_tokens, answer, topic, missing, level, columns))\n"
        "    return bonus\n"
        "def look(completion): raise LookupError(repr(seen))\n"
    )
    assert points(path, "f", item(topic="mass", source="book"), item("b"), bonus=2) == [2.0, 2.0]
    with pytest.raises(LookupError) as seen:
        points(path, "look")
    assert str(seen.value) == repr(
        [
            ("one two", "Q?", 7, "3", "mass", None, 9, {"source": "book"}),
            ("b", "Q?", 7, "3", None, None, 9, {}),
        ]
    )


def test_the_batch_form_gets_lists(write: Write) -> None:
    path = write(
        "def f(completions, prompts, num_tokens, answers, topic, missing, *, bonus, **columns):\n"
        "    assert (completions, prompts, num_tokens, answers) == (['a', 'b'], ['Q?'] * 2, [7, 7], ['3', '3'])\n"
        "    assert (topic, missing, columns) == (['mass', None], [None, None], {'source': [None, 'book']})\n"
        "    return [bonus, None]\n"
    )
    assert points(path, "f", item("a", topic="mass"), item("b", source="book"), bonus=1.5) == [1.5, None]


def test_a_column_does_not_replace_what_the_pipeline_fills(write: Write) -> None:
    path = write("def f(completion, num_tokens): return num_tokens\ndef g(completions, answers): return [len(answers)]")
    assert points(path, "f", item(num_tokens="x")) == [7.0]
    assert points(path, "g", item(answers="x, y, z")) == [1.0]


def test_async_functions_wait_together(write: Write) -> None:
    path = write(
        "import asyncio\n"
        "arrived, all_there = [], None\n"
        "async def single(completion):\n"
        "    global all_there\n"
        "    all_there = all_there or asyncio.Event()\n"
        "    arrived.append(completion)\n"
        "    if len(arrived) == 3: all_there.set()\n"
        "    await all_there.wait()\n"  # ends only if all three are under way at once
        "    return float(completion)\n"
        "async def batch(completions): return [float(text) for text in completions]\n"
    )
    three = [item(text) for text in ("1", "2", "3")]
    assert points(path, "single", *three) == [1.0, 2.0, 3.0]
    assert points(path, "batch", *three) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "value",
    [2, 2.0, Fraction(4, 2), np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0), torch.tensor(2)],
    ids=lambda value: f"{type(value).__module__}.{type(value).__name__}",
)
def test_numbers_of_every_kind_are_points(write: Write, value: Any) -> None:
    path = write("values = []\ndef f(completion, *, value): return value\ndef g(completions, *, value): return [value]")
    assert points(path, "f", value=value) == points(path, "g", value=value) == [2.0]


def test_bools_none_tuples_and_arrays(write: Write) -> None:
    path = write("def f(completion, *, value): return value\ndef g(completions, *, value): return value")
    assert points(path, "f", value=True) == [1.0]
    assert points(path, "f", value=None) == [None]
    two = item("a"), item("b")
    for value in ((1, None), [True, None]):
        assert points(path, "g", *two, value=value) == [1.0, None]
    for array in (np.array([1, 2]), torch.tensor([1.0, 2.0])):
        assert points(path, "g", *two, value=array) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("function", "value", "message"),
    [
        ("f", "3", r"user/mine.py:f returned '3' \(str\) for a completion: return a number, or None"),
        ("f", [1.0], r"returned \[1.0\] \(list\)"),
        ("f", {"points": 1}, r"\(dict\)"),
        ("f", 1j, r"\(complex\)"),
        ("f", math.nan, r"returned nan \(float\) for a completion: points must be finite numbers"),
        ("f", -math.inf, "must be finite"),
        ("f", 10**4000, "an int of 13288 bits"),
        ("f", torch.zeros(2), r"returned tensor"),
        ("f", "x" * 10**6, r"returned 'x{56}\.\.\. \(str\)"),
        ("g", 1.0, r"user/mine.py:g returned 1.0 \(float\): the batch form returns a list of 1 numbers or Nones"),
        ("g", None, "the batch form returns a list"),
        ("g", np.array(1.0), "the batch form returns a list"),
        ("g", [1.0, 2.0], "returned 2 values for 1 completions: return one for each"),
        ("g", [], "returned 0 values for 1 completions"),
        ("g", ["3"], r"returned '3' \(str\)"),
        ("g", [math.nan], "must be finite"),
    ],
)
def test_nonsense_is_refused_with_what_came_back(write: Write, function: str, value: Any, message: str) -> None:
    path = write("def f(completion, *, value): return value\ndef g(completions, *, value): return value")
    with pytest.raises((TypeError, ValueError), match=message):
        points(path, function, value=value)


def test_an_exception_of_the_function_passes_through(write: Write) -> None:
    path = write("def f(completion): return 1 / 0\nasync def g(completion): return {}['key']")
    with pytest.raises(ZeroDivisionError):
        points(path, "f")
    with pytest.raises(KeyError):
        points(path, "g")


def test_a_file_is_run_once_until_it_changes(write: Write) -> None:
    source = "calls = []\ndef f(completion):\n    calls.append(1)\n    return len(calls)\n"
    path = write(source)
    assert [points(path, "f"), points(path, "f")] == [[1.0], [2.0]]
    write(source.replace("len(calls)", "-len(calls)"))
    assert points(path, "f") == [-1.0]


def test_a_file_may_use_dataclasses_and_import_its_neighbour(write: Write) -> None:
    write("WORDS = 2", "user/my_neighbour.py")
    path = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom my_neighbour import WORDS\n"
        "@dataclass\nclass Found:\n    words: int\n"
        "def f(completion): return Found(len(completion.split())).words == WORDS\n"
    )
    assert points(path, "f") == [1.0]


@given(values=st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_points_come_back_in_order(values: list[float | None], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "order.py"
    path.write_text(
        "def f(completion, value): return value\nasync def h(completion, value): return value\n"
        "def g(completions, value): return value\n"
    )
    items = [item(value=value) for value in values]
    for function in "fgh":
        assert points(str(path), function, *items) == values


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("robotic", {"penalty": -3.0}, [-3.0, 0.0, 0.0]),
        ("variety", {}, [1.0, 0.5, 0.5]),
        ("fits", {"per_word": -0.5}, [None, -0.5, 0.0]),
    ],
)
def test_the_examples_that_come_with_the_project(
    name: str, options: dict[str, float], expected: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    signature = check(f"user/my_rewards.py:{name}", options=options)
    check_columns(signature, set())
    items = [item("As an AI I cannot"), item("It is 4", max_words=2), item("It is 4", max_words=3)]
    assert call(path=signature.path, function=name, items=items, options=options) == expected
