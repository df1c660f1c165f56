"""The chat format: messages, reasoning and answer tags, and reading an answer back.

A well-formed completion is

    reasoning_start WORKING reasoning_end answer_start ANSWER answer_end
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Protocol, Self

from rlvr.types import Problem, nearest

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+")

Message = dict[str, str]  # role and content

# For models without a chat template.
CHAT_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Tags:
    """The four tags around the reasoning and the answer."""

    reasoning_start: str
    reasoning_end: str
    answer_start: str
    answer_end: str

    @classmethod
    def of(cls, values: dict[str, str]) -> Self:
        """Tags spelled out by the user. Raises ValueError."""
        names = [field.name for field in fields(cls)]
        if set(values) != set(names):
            raise ValueError(
                f"tags must have exactly the keys {', '.join(names)}; found {', '.join(values) or 'nothing'}"
            )
        stripped = [value.strip() for value in values.values()]
        if "" in stripped or len(set(stripped)) < 4:
            raise ValueError(f"tags must be four different, non-empty strings; found {stripped}")
        return cls(**values)

    @lru_cache  # noqa: B019  (tags are few and live as long as the program)
    def marks(self) -> tuple[str, str, str, str]:
        """The tags without the white space around them."""
        return tuple(value.strip() for value in asdict(self).values())


TAGS = {
    "working_out": Tags("<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>"),
    "think": Tags("<think>", "</think>", "<answer>", "</answer>"),
    "xml": Tags("<reasoning>\n", "\n</reasoning>\n", "<answer>\n", "\n</answer>\n"),
}


class TemplateSettings(Protocol):
    @property
    def tags(self) -> str | dict[str, str]: ...
    @property
    def open_in_prompt(self) -> bool: ...


def tags_of(template: TemplateSettings) -> Tags:
    """The four tags that `template.tags` names or spells out. Raises ValueError."""
    if isinstance(template.tags, str):
        if template.tags not in TAGS:
            raise ValueError(f"tags {template.tags!r} is not one of {', '.join(TAGS)}{nearest(template.tags, TAGS)}")
        return TAGS[template.tags]
    return Tags.of(template.tags)


def opening_of(template: TemplateSettings) -> str:
    """What the prompt gives away of the completion: the opening reasoning tag, or nothing."""
    return tags_of(template).reasoning_start if template.open_in_prompt else ""


def messages(question: str, system_prompt: str | None, earlier: Sequence[Message] = ()) -> list[Message]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, *earlier, {"role": "user", "content": question}]


def turns(examples: Sequence[Problem], tags: Tags) -> list[Message]:
    """Worked examples as earlier turns of the chat: each question, then its well-formed answer."""
    return [
        message
        for problem in examples
        for message in (
            {"role": "user", "content": problem.question},
            {"role": "assistant", "content": render_target(problem, tags)},
        )
    ]


def render_prompt(
    tokenizer: Any, question: str, *, system_prompt: str | None, opening: str, earlier: Sequence[Message] = ()
) -> str:
    """The text up to the start of the completion; `opening` is the tag that the prompt already holds, or empty.

    If the chat template refuses or drops a system prompt (Gemma's does), it goes before the user's first turn.
    """
    from jinja2 import TemplateError  # noqa: PLC0415

    def render(chat: list[Message]) -> str:
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return text + opening

    try:
        text = render(messages(question, system_prompt, earlier))
    except TemplateError:
        if not system_prompt:
            raise
        text = ""
    if not system_prompt or system_prompt.strip() in text:
        return text
    first, *rest = messages(question, None, earlier)
    return render([first | {"content": f"{system_prompt}\n\n{first['content']}"}, *rest])


def render_target(problem: Problem, tags: Tags) -> str:
    """The completion that the format pre-finetune teaches, with the opening tag and without the end of sequence."""
    return (
        f"{tags.reasoning_start}{problem.working}{tags.reasoning_end}"
        f"{tags.answer_start}{problem.solution or problem.answer}{tags.answer_end}"
    )


@dataclass(frozen=True)
class Reading:
    """The parts of a completion by its tags, None where the tags are missing.

    `answer` is the answer of a well-formed completion. `tagged` is the text after the first answer tag of any
    completion. `reasoning` is the text between the first pair of reasoning tags. `counts` has the number of each tag.
    """

    answer: str | None
    tagged: str | None
    reasoning: str | None
    counts: tuple[int, int, int, int]


def read(text: str, tags: Tags) -> Reading:
    start, end, answer_start, answer_end = tags.marks()
    _, start_tag, rest = text.partition(start)
    reasoning, end_tag, _ = rest.partition(end)
    counts = text.count(start), text.count(end), text.count(answer_start), text.count(answer_end)
    return Reading(
        extract_answer(text, tags), extract_tagged(text, tags), reasoning if start_tag and end_tag else None, counts
    )


def extract_answer(text: str, tags: Tags) -> str | None:
    """The answer of a well-formed completion: each tag once and in order, nothing before, between or after.

    White space that belongs to the answer tags, such as the line breaks of xml, is not part of the answer.
    """
    marks = start, end, answer_start, answer_end = tags.marks()
    body = text.strip()
    if not body.startswith(start) or not body.endswith(answer_end):
        return None
    before, tag, answer = body[len(start) :].removesuffix(answer_end).partition(answer_start)
    before = before.rstrip()
    reasoning = before.removesuffix(end)
    if not tag or not reasoning or not answer or len(reasoning) == len(before):
        return None
    if any(mark in reasoning or mark in answer for mark in marks):
        return None
    lead, trail = (
        tags.answer_start[len(tags.answer_start.rstrip()) :],
        tags.answer_end[: -len(tags.answer_end.lstrip())],
    )
    return answer.removeprefix(lead).removesuffix(trail)


def extract_tagged(text: str, tags: Tags) -> str | None:
    """The text from the first answer tag to its end tag or the end of the text; None without the tag."""
    _, _, answer_start, answer_end = tags.marks()
    _, tag, rest = text.partition(answer_start)
    return rest.partition(answer_end)[0] if tag else None


def last_number(text: str) -> str | None:
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None
