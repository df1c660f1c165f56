"""Write what a chat template takes from outside into the template: its variables, and the date of today.

The prompts of every later stage, of `rlvr generate` and of the server are then those of training, on any day.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any, Protocol

TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
WALL = "{{ '' }}"  # a block would swallow a line break at the start of the template


class TemplateSettings(Protocol):
    @property
    def date(self) -> str: ...


class ModelSettings(Protocol):
    @property
    def chat_template_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def template(self) -> TemplateSettings: ...


def fix_template(tokenizer: Any, model: ModelSettings) -> list[str]:
    """Put `model.chat_template_kwargs` and `model.template.date` into the tokenizer's chat template.

    Returns the variables that the template does not read.
    """
    template: str = tokenizer.get_chat_template()
    read = {name: value for name, value in model.chat_template_kwargs.items() if re.search(rf"\b{name}\b", template)}
    tokenizer.chat_template = with_values(template, read, model.template.date)
    return [name for name in model.chat_template_kwargs if name not in read]


def with_values(template: str, variables: Mapping[str, Any], date: str) -> str:
    """The template with `variables` set at its start, and with the ISO `date` where it asks for today's."""
    day = datetime.date.fromisoformat(date)
    dated = TODAY.sub(lambda call: repr(day.strftime(call[2])), template)
    front = "".join(f"{{%- set {name} = {value!r} -%}}" for name, value in variables.items())
    return dated if not front or dated.startswith(front) else front + WALL + dated
