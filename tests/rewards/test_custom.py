"""Reward functions of the user's own: read without being run, called as their signature says, nonsense refused."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from rlvr.rewards.custom import Signature, check, check_columns, check_verifier, hidden_columns
from rlvr.verifiers.workers.own import call
from support.user_files import Write, user_folder

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Put a source into user/mine.py of an empty project; the path as params.yaml would name it."""
    monkeypatch.chdir(tmp_path)
    return user_folder()


def read(spec: str, options: dict[str, Any] | None = None) -> Signature:
    """The signature of a function whose file says it by itself."""
    found = check(spec, options=options or {})
    assert found is not None
    return found


def test_a_signature_is_read_and_the_file_is_not_run(write: Write) -> None:
    path = write("raise SystemExit\nasync def f(completion, topic, level=1, *, weight, **columns): ...")
    signature = read(f"{path}:f", {"weight": 1})
    assert (signature.path, signature.function, signature.is_batch) == (path, "f", False)
    assert (signature.required, signature.optional, signature.options) == (("topic",), ("level",), ("weight",))
    assert signature.takes_columns
    check_columns(signature, {"topic", "source"})
    with pytest.raises(ValueError, match=r"asks for topic, .* the columns are source, topics; did you mean topics\?"):
        check_columns(signature, {"topics", "source"})


def test_what_the_pipeline_fills_is_no_column(write: Write) -> None:
    path = write("def f(prompts, completions, num_tokens, answers): ...\ndef g(completion, prompt, answer): ...")
    assert read(f"{path}:f").is_batch
    for name in "fg":
        signature = read(f"{path}:{name}")
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
        ("def g(): f = 1", "user/mine.py:f", [], "defines no function 'f' at its top level; it has g"),
        ("from mine import f as g", "user/mine.py:f", [], r"it has g"),
        ("def f(text): ...", "user/mine.py:f", [], r"neither completion nor completions(.|\n)*def robotic"),
        ("def f(): ...", "user/mine.py:f", [], r"\(no parameters\)"),
        ("def f(completion, prompts): ...", "user/mine.py:f", [], "prompts belongs to the batch form"),
        ("def f(completions, completion): ...", "user/mine.py:f", [], "completions belongs to the batch form"),
        ("def f(completions, prompt): ...", "user/mine.py:f", [], "prompt belongs to the single form"),
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


TRL = "def f(prompts, completions, answer, **kwargs): ..."


@pytest.mark.parametrize(
    "source",
    [TRL, "def f(completions, *args, **kwargs): ...", "def f(**kwargs): ...", "async def f(completions, **rest): ..."],
)
def test_the_signatures_of_other_trainers_are_the_batch_form(write: Write, source: str) -> None:
    signature = read(f"{write(source)}:f")
    assert signature.is_batch and signature.required == ()
    check_columns(signature, set())


@pytest.mark.parametrize(
    "source",
    [
        "from functools import partial\nf = partial(print)",
        "from other import f",
        "import other as f",
        "from other import *",
        "class f: ...",
        "f = g = lambda completion: 1.0",
        "try:\n    from other import f\nexcept ImportError:\n    def f(completion): ...",
        "@wrapped\ndef f(*given): ...",
        "f: object = print",
    ],
)
def test_what_only_running_the_file_can_tell_is_left_to_it(write: Write, source: str) -> None:
    assert check(f"{write(source)}:f", options={"weight": 1.0}) is None


def test_columns_that_the_pipeline_hides_are_said(write: Write) -> None:
    path = write("def f(prompts, completions, topic): ...\ndef g(completion, **columns): ...\ndef h(completion): ...")
    (note,) = hidden_columns(read(f"{path}:f"), {"prompts", "answers", "topic"})
    assert "column prompts, a name that the pipeline fills itself: f gets that value; rename the column" in note
    (note,) = hidden_columns(read(f"{path}:g"), {"prompts", "num_tokens", "topic"})
    assert "column num_tokens, prompts" in note
    assert hidden_columns(read(f"{path}:h"), {"prompts", "answers"}) == []


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
    signature = read(f"user/my_rewards.py:{name}", options)
    check_columns(signature, set())
    shared = {"prompt": "Q?", "num_tokens": 7, "answer": "3", "extracted": None}
    rows: tuple[tuple[str, dict[str, Any]], ...] = (
        ("As an AI I cannot", {}),
        ("It is 4", {"max_words": 2}),
        ("It is 4", {"max_words": 3}),
    )
    items = [{"completion": text, "columns": columns, **shared} for text, columns in rows]
    found = call(path=signature.path, function=name, items=items, options=options, messages=None)
    assert found == {"points": expected, "messages": ["", "", ""]}


@pytest.mark.parametrize("given", ["answer, gold", "gold, answer", "a, b, c=1", "a, b, /", "*both", "answer, *, gold"])
def test_a_verifier_takes_answer_and_gold(write: Write, given: str) -> None:
    check_verifier(f"{write(f'def f({given}): ...')}:f")


@pytest.mark.parametrize("given", ["", "answer", "answer, gold, question", "answer, *, goal", "**all"])
def test_a_verifier_that_cannot_take_them_is_refused(write: Write, given: str) -> None:
    with pytest.raises(ValueError, match="a verifier takes answer and gold"):
        check_verifier(f"{write(f'def f({given}): ...')}:f")
