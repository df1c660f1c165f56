"""What docs/your-own-reward.md shows works as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import Config, parse_yaml
from rlvr.rewards import custom
from rlvr.rewards.judge import options as judge
from rlvr.verifiers.workers import own

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/your-own-reward.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", PAGE, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_settings_are_accepted(text: str, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = parse_yaml(text, "the page")
    if "rewards" in settings:
        assert make_config(settings).rewards["robotic"].weight == 0.5


def test_the_verifier_of_the_page(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = (settings["verifiers"] for text in blocks("yaml") if "verifiers" in (settings := parse_yaml(text, "")))
    file, _, function = shown["answer"].partition(":")
    monkeypatch.chdir(tmp_path)
    Path("user").mkdir()
    Path(file).write_text(f"def {function}(answer: str, gold: str) -> bool | None: return answer == gold")
    assert make_config({"verifiers.answer": shown["answer"]}).verifiers.answer == shown["answer"]


def test_every_option_of_a_judge_is_shown() -> None:
    shown = [line.split(":")[0].strip() for text in blocks("yaml") for line in text.splitlines()]
    assert set(judge.Options.__dataclass_fields__) <= set(shown)


@pytest.mark.parametrize(
    ("name", "options", "columns", "expected"),
    [
        ("robotic", {"penalty": -3.0}, {}, [-3.0, 0.0]),
        ("shorter_than_the_others", {}, {}, [0.0, 1.0]),
        ("names_the_recipient", {}, {"recipient": "Ada"}, [0.0, 1.0]),
        ("names_the_recipient", {}, {}, [None, None]),
        ("right", {}, {}, [2.0, 0.0]),
    ],
)
def test_functions_do_what_they_say(
    name: str,
    options: dict[str, Any],
    columns: dict[str, Any],
    expected: list[float | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("user").mkdir()
    Path("user/page.py").write_text("\n\n".join(blocks("python")))
    signature = custom.check(f"user/page.py:{name}", options=options)
    assert signature is not None
    custom.check_columns(signature, set(columns))
    texts = "As an AI I cannot write letters", "Dear Ada"
    items = [
        {
            "completion": text,
            "prompt": "?",
            "answer": "AI",
            "num_tokens": len(text),
            "extracted": None,
            "columns": columns,
        }
        for text in texts
    ]
    found = own.call(path="user/page.py", function=name, items=items, options=options, messages=None)
    assert found["points"] == expected


def test_the_prompt_names_what_the_pipeline_fills() -> None:
    (prompt,) = blocks("text")
    assert all(name in prompt for form in own.FORMS.items() for name in form)
