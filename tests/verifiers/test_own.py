"""The user's functions as they are called: with what they ask for, their results read, nonsense refused."""

from __future__ import annotations

import itertools
import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.workers.own import call, signature, verify
from support.user_files import Write, user_folder


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Put a source into user/mine.py of an empty project; the path as params.yaml would name it."""
    monkeypatch.chdir(tmp_path)
    return user_folder()


def item(completion: str = "one two", **columns: Any) -> dict[str, Any]:
    filled = {"prompt": "Q?", "num_tokens": 7, "answer": "3", "extracted": "4"}
    return {"completion": completion, **filled, "columns": columns}


def scores(path: str, function: str, *items: dict[str, Any], **options: Any) -> dict[str, list[Any]]:
    return call(path=path, function=function, items=list(items) or [item()], options=options, messages=None)


def points(path: str, function: str, *items: dict[str, Any], **options: Any) -> list[float | None]:
    """The points of a function that does not fail."""
    found = scores(path, function, *items, **options)
    assert not any(found["messages"]), found["messages"]
    return found["points"]


def test_the_single_form_gets_what_it_asks_for(write: Write) -> None:
    path = write(
        "seen = []\n"
        "def f(completion, prompt, num_tokens, answer, topic, missing, level=9, *, bonus, **columns):\n"
        "    seen.append((completion, prompt, num_tokens, answer, topic, missing, level, columns))\n"
        "    return bonus\n"
        "def look(completion, *, expected): return repr(seen) == expected\n"
    )
    assert points(path, "f", item(topic="mass", source="book"), item("b"), bonus=2) == [2.0, 2.0]
    seen = [("one two", "Q?", 7, "3", "mass", None, 9, {"source": "book"}), ("b", "Q?", 7, "3", None, None, 9, {})]
    assert points(path, "look", expected=repr(seen)) == [1.0]


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
    "returned",
    [
        "np.array([[1], [2]])",
        "np.array([1, 2], dtype=np.float16)",
        "torch.tensor([[1.0], [2.0]], requires_grad=True)",
        "pd.Series([1, 2], index=[7, 3])",
        "pd.DataFrame({'points': [1, 2]})",
        "(float(i + 1) for i in range(2))",
        "map(float, '12')",
        "range(1, 3)",
        "{'a': 1, 'b': 2}.values()",
        "[Decimal('1'), Fraction(4, 2)]",
        "[np.array([1.0]), torch.tensor([2])]",
        "[True, np.int8(2)]",
    ],
)
def test_sequences_of_every_kind_hold_points(write: Write, returned: str) -> None:
    path = write(
        "import numpy as np, pandas as pd, torch\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
        f"def g(completions): return {returned}"
    )
    assert points(path, "g", item("a"), item("b")) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", r"user/mine.py:f returned '3' \(str\) for a completion: return a number, or None"),
        ([1.0], r"returned \[1.0\] \(list\)"),
        ({"points": 1}, r"\(dict\)"),
        (1j, r"\(complex\)"),
        (math.nan, r"returned nan \(float\) for a completion: points must be finite numbers"),
        (-math.inf, "must be finite"),
        (Decimal("sNaN"), "must be finite"),
        (10**4000, "an int of 13288 bits"),
        (torch.zeros(2), r"returned tensor"),
        ("x" * 10**6, r"returned 'x{56}\.\.\. \(str\)"),
    ],
)
def test_no_number_costs_the_completion_and_says_what_came_back(write: Write, value: Any, message: str) -> None:
    path = write(
        "def f(completion, *, value): return value\n"
        "def g(completions, *, value): return [value if text == 'bad' else 1.0 for text in completions]"
    )
    single = scores(path, "f", value=value)
    assert math.isnan(single["points"][0])
    assert re.search(message, single["messages"][0])
    batch = scores(path, "g", item(), item("bad"), item(), value=value)
    assert [math.isnan(one) for one in batch["points"]] == [False, True, False]
    assert re.search(message.replace(":f", ":g"), batch["messages"][1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, r"user/mine.py:g returned 1.0 \(float\): the batch form returns a list of 2 numbers or Nones"),
        (None, "the batch form returns a list"),
        (np.array(1.0), "the batch form returns a list"),
        ("12", "the batch form returns a list"),
        ({1.0, 2.0}, "the batch form returns a list"),
        ({0: 1.0, 1: 2.0}, "the batch form returns a list"),
        ([1.0, 2.0, 3.0], "returned more than 2 values for 2 completions: return one for each"),
        ([1.0], "returned 1 values for 2 completions"),
        ([], "returned 0 values for 2 completions"),
        (itertools.repeat(1.0), "returned more than 2 values"),
        (np.ones((1, 2)), "returned 1 values for 2 completions"),
    ],
)
def test_a_result_for_another_number_of_completions_is_refused(write: Write, value: Any, message: str) -> None:
    path = write("def g(completions, *, value): return value")
    with pytest.raises((TypeError, ValueError), match=message):
        scores(path, "g", item(), item(), value=value)


def test_a_function_that_raises_on_one_completion_costs_one(write: Write) -> None:
    path = write(
        "import sys\n"
        "def f(completion): return 1 / int(completion)\n"
        "async def h(completion): return 1 / int(completion)\n"
        "def g(completions): return (1 / int(text) for text in completions)\n"
        "def compares(completions):\n"
        "    best = max(int(text) for text in completions)\n"
        "    return [float(int(text) == best) for text in completions]\n"
        "def leaves(completion): return 1.0 if completion != 'x' else sys.exit()\n"
    )
    rows = [item(text) for text in ("1", "2", "0", "x", "4")]
    for function in "fhg":
        found = scores(path, function, *rows)
        assert [point for point in found["points"] if not math.isnan(point)] == [1.0, 0.5, 0.25]
        assert f"user/mine.py:{function}: ZeroDivisionError: division by zero (mine.py, line" in found["messages"][2]
        assert "ValueError" in found["messages"][3]
    assert scores(path, "compares", *rows)["points"][:3] == [0.0, 0.0, 0.0]  # among those that could be read
    assert scores(path, "compares", *rows)["points"][4] == 1.0
    assert [math.isnan(point) for point in scores(path, "leaves", *rows)["points"]] == [False] * 3 + [True, False]


def test_a_function_that_fails_on_all_together_only_fails(write: Write) -> None:
    path = write("def g(completions): return [1 / (2 - len(completions))] * len(completions)")
    with pytest.raises(ZeroDivisionError):
        scores(path, "g", item(), item())


def test_what_other_trainers_pass_is_passed(write: Write) -> None:
    path = write(
        "def lists(prompts, completions, answer, **kwargs):\n"
        "    return [float(text == gold) for text, gold in zip(completions, answer)]\n"
        "def bare(**kwargs):\n"
        "    assert sorted(kwargs) == ['answer', 'completions', 'prompts', 'topic'], sorted(kwargs)\n"
        "    return [float(text == gold) for text, gold in zip(kwargs['completions'], kwargs['answer'])]\n"
        "def more(completions, *args, **kwargs): return [float(gold == '3') + len(args) for gold in kwargs['answer']]\n"
        "def extracted(completions, extracted): return [None if one is None else float(one) for one in extracted]\n"
        "def own(completion, extracted): return extracted == '4'\n"
    )
    rows = item("3", topic="mass"), item("4")
    assert points(path, "lists", *rows) == points(path, "bare", *rows) == [1.0, 0.0]
    assert points(path, "more", *rows) == points(path, "own", *rows) == [1.0, 1.0]
    assert points(path, "extracted", item(), item() | {"extracted": None}) == [4.0, None]


CHATS = {
    "subscript": "def f(completions, **kwargs): return [float(c[0]['content']) for c in completions]",
    "get": "def f(completions, **kwargs): return [float(c[-1].get('content')) for c in completions]",
    "helper": (
        "def text(c): return c[0]['content']\ndef f(prompts, completions, answer, **kwargs):\n"
        "    return [float(text(c)) for c in completions]"
    ),
    "lambda": (
        "text = lambda c: ''.join(m['content'] for m in c)\n"
        "def f(completions, **kwargs): return [float(text(c)) for c in completions]"
    ),
    "prompts": (
        "def f(prompts, completions, **kwargs):\n    assert prompts[0][-1] == {'role': 'user', 'content': 'Q?'}\n"
        "    return [float(c[0]['content']) for c in completions]"
    ),
    "closure": (
        "def make(read):\n    def f(completions, **rest): return [float(read(c)) for c in completions]\n    return f\n"
        "f = make(lambda c: c[0]['content'])"
    ),
    "partial": (
        "from functools import partial\ndef g(scale, completions, **kwargs):\n"
        "    return [scale * float(c[0]['content']) for c in completions]\nf = partial(g, 1.0)"
    ),
    "object": (
        "class Read:\n    def __call__(self, completions, **kwargs): return [self.of(c) for c in completions]\n"
        "    def of(self, c): return float(c[0]['content'])\nf = Read()"
    ),
    "wrapped": (
        "import functools\ndef logged(inner):\n    @functools.wraps(inner)\n    def outer(*args, **kwargs):\n"
        "        return inner(*args, **kwargs)\n    return outer\n@logged\n"
        "def f(completions, answer, **kwargs): return [float(c[0]['content']) for c in completions]"
    ),
}


@pytest.mark.parametrize("source", CHATS.values(), ids=CHATS)
def test_a_function_that_reads_chats_gets_chats(write: Write, source: str) -> None:
    assert points(write(source), "f", item("1"), item("2")) == [1.0, 2.0]


def test_helpers_in_another_file_may_read_the_chats(write: Write) -> None:
    write("def text_of(c): return c[0]['content']", "user/chat_helper.py")
    source = "from chat_helper import text_of\ndef g(completions): return [float(text_of(c)) for c in completions]"
    write(source, "user/chat_rewards.py")
    path = write(
        "import chat_helper\nfrom chat_rewards import g\n"
        "def f(completions, **kwargs): return [float(chat_helper.text_of(c)) for c in completions]"
    )
    assert points(path, "f", item("1")) == points(path, "g", item("1")) == [1.0]


def test_texts_stay_texts(write: Write) -> None:
    path = write(
        "import json\n"
        "def f(completions): return [float(text.startswith('{')) for text in completions]\n"
        "def words(completions): return [float('content' in text) for text in completions]\n"
        "def single(completion): return json.loads(completion)['content']\n"
        "def batch(completions): return [json.loads(text)['content'] for text in completions]\n"
    )
    row = item('{"content": 5}')
    assert points(path, "f", row) == points(path, "words", row) == [1.0]
    assert points(path, "single", row) == [5.0]
    said = call(path=path, function="batch", items=[row], options={}, messages=False)  # the setting decides
    assert said["points"] == [5.0]


@pytest.mark.parametrize(
    ("body", "remedy"),
    [
        ('key = "content"; return [float(len(c[0][key])) for c in completions]', "messages: true"),
        ('return [float(len(c[0].get("role"))) for c in completions]', "messages: true"),
        ('return [float(len(c[-1]["role"])) for c in completions]', "messages: true"),
        ('return [float(len(c[0]["content"])) + len(c.split()) for c in completions]', "messages: false"),
        (
            'import re; return [float(bool(c[0]["content"])) + len(re.findall("x", c)) for c in completions]',
            "messages: false",
        ),
    ],
)
def test_a_failure_over_chats_and_texts_names_the_setting(write: Write, body: str, remedy: str) -> None:
    path = write(f"def f(completions):\n    {body}\n")
    found = call(path=path, function="f", items=[item("one"), item("two")], options={}, messages=None)
    assert all(map(math.isnan, found["points"]))
    assert all(remedy in message for message in found["messages"]), found["messages"]


def test_a_failure_of_another_kind_names_no_setting(write: Write) -> None:
    path = write("def f(completions): return [1 / 0 for c in completions]")
    (message,) = call(path=path, function="f", items=[item("one")], options={}, messages=None)["messages"]
    assert "messages:" not in message


def test_classes_partials_and_re_exports(write: Write) -> None:
    write("def scaled(completion, *, scale): return scale * len(completion)", "user/elsewhere.py")
    path = write(
        "from functools import partial\nfrom elsewhere import *\nfrom elsewhere import scaled as renamed\n"
        "class Made:\n"
        "    made = 0\n"
        "    def __init__(self, start=0.0): self.start = start; Made.made += 1\n"
        "    def __call__(self, completion, *, step): return self.start + step + Made.made\n"
        "class Silent: ...\n"
        "half = partial(scaled, scale=0.5)\n"
        "late = lambda completion: 3\n"
    )
    assert points(path, "scaled", scale=2.0) == points(path, "renamed", scale=2.0) == [14.0]
    assert points(path, "half") == [3.5] and points(path, "late") == [3.0]
    assert points(path, "Made", item(), item(), start=10.0, step=1.0) == [12.0, 12.0]
    made = signature(path=path, function="Made")
    assert made["constructor"] == ["start"]
    assert made["parameters"] == [["completion", "POSITIONAL_OR_KEYWORD", False], ["step", "KEYWORD_ONLY", False]]
    with pytest.raises(TypeError, match="the class Silent has no method __call__"):
        signature(path=path, function="Silent")


def test_a_function_that_leaves_the_folder_is_brought_back(write: Write, tmp_path: Path) -> None:
    path = write("import os\ndef f(completion):\n    os.chdir('/')\n    return 1.0\n")
    assert points(path, "f", item(), item()) == points(path, "f") * 2 == [1.0, 1.0]
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("body", "outcome", "said"),
    [
        ("return answer == gold", "right", ""),
        ("return np.bool_(answer != gold)", "wrong", ""),
        ("return None", "not_applicable", ""),
        ("return 0.5", "fault", "returned 0.5 (float): a verifier returns True, False or None"),
        ("raise KeyError('x')", "fault", "KeyError: 'x' (mine.py, line 2: def f(answer, gold): raise KeyError('x'))"),
    ],
)
def test_a_verifier_of_ones_own(write: Write, body: str, outcome: str, said: str) -> None:
    path = write(f"import numpy as np\ndef f(answer, gold): {body}")
    found = verify(answer="4", gold="4", path=path, function="f")
    assert found["outcome"] == outcome and said in found.get("message", "")


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


def test_a_verifier_gets_answer_and_gold_by_their_names(write: Write) -> None:
    path = write(
        "def turned(gold, answer): return answer.endswith(gold)\n"
        "def other(text, target): return text.endswith(target)\n"
        "def fixed(answer, gold, /): return answer.endswith(gold)\n"
        "class Kept:\n    def __call__(self, gold, answer): return answer.endswith(gold)"
    )
    for function in ("turned", "other", "fixed", "Kept"):
        assert verify(answer="it is 7", gold="7", path=path, function=function) == {"outcome": "right"}
        assert verify(answer="7", gold="it is 7", path=path, function=function) == {"outcome": "wrong"}
