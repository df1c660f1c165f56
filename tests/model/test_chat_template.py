"""Variables and the date, written into chat templates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from rlvr.model.chat_template import fix_template, with_values

CHAT = [{"role": "user", "content": "1?"}]
THINKING = (
    "\n{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<none>{% else %}<think>{% endif %}"
)
DATED = "Today is {{ strftime_now('%d %b %Y') }}.{% for m in messages %}{{ m.content }}{% endfor %}"


def rendered(template: str, **variables: Any) -> str:
    texts, _ = render_jinja_template([CHAT], chat_template=template, **variables)
    return str(texts[0])


def model(date: str = "2026-01-01", **variables: Any) -> Any:
    return SimpleNamespace(chat_template_kwargs=variables, template=SimpleNamespace(date=date))


def tokenizer(template: str) -> Any:
    made = SimpleNamespace(chat_template=template)
    made.get_chat_template = lambda: made.chat_template
    return made


@pytest.mark.parametrize("value", [True, False])
def test_a_variable_renders_as_if_it_were_passed(value: bool) -> None:
    fixed = with_values(THINKING, {"enable_thinking": value}, "2026-01-01")
    assert rendered(fixed) == rendered(THINKING, enable_thinking=value)
    assert with_values(fixed, {"enable_thinking": value}, "2026-01-01") == fixed


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), st.booleans(), st.none()))
def test_any_value_comes_through(value: Any) -> None:
    template = "{{ style }}|{% for m in messages %}{{ m.content }}{% endfor %}"
    assert rendered(with_values(template, {"style": value}, "2026-01-01")) == rendered(template, style=value)


def test_today_is_the_projects() -> None:
    fixed = with_values(DATED, {}, "2024-07-26")
    assert rendered(fixed) == "Today is 26 Jul 2024.1?"
    assert "strftime_now" not in fixed


def test_a_template_without_either_stays_as_it_is() -> None:
    assert with_values(THINKING, {}, "2024-07-26") == THINKING


def test_variables_that_the_template_does_not_read_are_reported() -> None:
    made = tokenizer(THINKING)
    assert fix_template(made, model(enable_thinking=False, thinking=True)) == ["thinking"]
    assert rendered(made.chat_template).endswith("<none>")
