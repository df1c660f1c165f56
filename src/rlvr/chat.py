"""The chat format: messages, reasoning and answer tags, and reading an answer back.

A well-formed completion is

    reasoning_start WORKING reasoning_end answer_start ANSWER answer_end

WORKING may mention the answer's tags. With answer tags such as \\boxed{ and } braces are counted, and words may stand
around the box.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import lru_cache
from itertools import permutations
from typing import Any, Protocol, Self

from rlvr.runtime.bounds import bounded
from rlvr.types import Message, Problem, UserError, nearest

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+")

PROBE = "0"  # a question that every vocabulary can write

RENDER_SECONDS, RENDER_BYTES = 10.0, 2**30  # for one chat
LONGEST = 2**20  # characters that a chat template may write around the messages
BOX = "\\boxed{"
# \boxed {2}, \fbox{2}, and at the end of a sentence or before another box \boxed 2: one symbol needs no braces
_BARE = r"(?P<bare>[-+]?\d+(?:,\d{3})*(?:\.\d+)?|(?<=[ \t])[A-Z])"
_BEHIND_BARE = r"(?=\.?\$*[.!]?\s*(?:\n|<|$)|\$?\s*(?:,|or|and)?\s*\$?\\(?:boxed|fbox))"
BOXES = re.compile(rf"\\(?:boxed|fbox)(?:\s*\{{|[ \t]*{_BARE}{_BEHIND_BARE})")
GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # blocks of transformers around an assistant's turn
REMEDY = "repair its chat_template.jinja, or use a model with another"

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
        tags = cls(**values)
        tags._check()
        return tags

    def _check(self) -> None:
        """Raise ValueError for tags with which no completion, or hardly one, could be well-formed."""
        marks = self.marks()[:3] if self.is_box else self.marks()
        for mark in marks:
            if len(mark) < 2 or mark.isdigit():
                raise ValueError(
                    f"the tag {mark!r} occurs in reasoning and answers themselves: use a longer one, such as <answer>"
                )
        for mark, other in permutations(marks, 2):
            if mark in other:
                raise ValueError(
                    f"the tag {mark!r} is a part of the tag {other!r}, so it would be found there: use others"
                )
        text = render_target(Problem("", "", "2", "1+1=2", 1), self)
        if extract_answer(text, self) != "2":
            raise ValueError(f"no answer can be read from {text!r}, with these tags; use others")

    @property
    def is_box(self) -> bool:
        """Whether the answer is in braces, such as \\boxed{...}, which are counted."""
        return self.answer_start.strip().endswith("{") and self.answer_end.strip() == "}"

    @lru_cache  # noqa: B019  (tags are few and live as long as the program)
    def marks(self) -> tuple[str, str, str, str]:
        """The tags without the white space around them."""
        return tuple(value.strip() for value in asdict(self).values())


TAGS = {
    "working_out": Tags("<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>"),
    "think": Tags("<think>", "</think>", "<answer>", "</answer>"),
    "xml": Tags("<reasoning>\n", "\n</reasoning>\n", "<answer>\n", "\n</answer>\n"),
    "boxed": Tags("<think>", "</think>", "\\boxed{", "}"),
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


@dataclass(frozen=True)
class Opening:
    """What every prompt gives away of the completion: `given`, of which the chat template does not write `added`."""

    given: str
    added: str


def opening_of(template: TemplateSettings, tokenizer: Any) -> Opening:
    """The opening reasoning tag, if the chat template writes it itself or `template.open_in_prompt` asks for it."""
    tags = tags_of(template)
    prompt = render_prompt(tokenizer, PROBE, system_prompt=None, opening="")
    start, end = tags.marks()[:2]
    _, tag, tail = prompt.rpartition(start)
    if tag and PROBE not in tail and end not in tail:
        return Opening(tag + tail, "")
    return Opening(tags.reasoning_start, tags.reasoning_start) if template.open_in_prompt else Opening("", "")


def other_opening(template: TemplateSettings, tokenizer: Any) -> str | None:
    """The opening tag of other TAGS that the chat template writes, so that a completion begins in another format."""
    prompt = render_prompt(tokenizer, PROBE, system_prompt=None, opening="").rstrip()
    own = tags_of(template).marks()[0]
    others = {tags.marks()[0] for tags in TAGS.values()} - {own}
    return next((tag for tag in sorted(others) if prompt.endswith(tag)), None)


def messages(
    question: str, system_prompt: str | None, earlier: Sequence[Message] = (), context: Sequence[Message] = ()
) -> list[Message]:
    """The chat up to the question. `earlier` are worked examples, `context` the turns that belong to the question.

    A system prompt in `context` takes the place of `system_prompt`.
    """
    own = [message for message in context if message["role"] == "system"]
    system = own or ([{"role": "system", "content": system_prompt}] if system_prompt else [])
    turns = [message for message in context if message["role"] != "system"]
    return [*system, *earlier, *turns, {"role": "user", "content": question}]


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
    tokenizer: Any,
    question: str,
    *,
    system_prompt: str | None,
    opening: str,
    earlier: Sequence[Message] = (),
    context: Sequence[Message] = (),
) -> str:
    """The text up to the start of the completion; `opening` is what is added to what the chat template writes.

    If the chat template refuses or drops a system prompt (Gemma's does), it goes before the user's first turn. Raises
    UserError for a chat template that cannot write the chat.
    """
    chat = messages(question, system_prompt, earlier, context)
    is_system = [message["role"] == "system" for message in chat]
    try:
        text = render_chat(tokenizer, chat, add_generation_prompt=True)
    except UserError:
        if not any(is_system):
            raise
        text = ""
    prompts = [message["content"] for message, system in zip(chat, is_system, strict=True) if system]
    if text and all(prompt.strip() in text for prompt in prompts):
        return text + opening
    first, *rest = (message for message, system in zip(chat, is_system, strict=True) if not system)
    merged = [first | {"content": "\n\n".join([*prompts, first["content"]])}, *rest]
    return render_chat(tokenizer, merged, add_generation_prompt=True) + opening


def render_chat(
    tokenizer: Any, chat: Sequence[Message], *, add_generation_prompt: bool, template: str | None = None
) -> str:
    """What the chat template (the tokenizer's, or `template`) writes for `chat`.

    A template is a program of its author's: raises UserError for one that fails, takes more than RENDER_SECONDS or
    RENDER_BYTES of memory, or writes more than LONGEST characters around the messages.
    """
    roles = ", ".join(message["role"] for message in chat)
    try:
        with bounded(seconds=RENDER_SECONDS, num_bytes=RENDER_BYTES):
            text = str(
                tokenizer.apply_chat_template(
                    list(chat), chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
    except Exception as error:
        raise UserError(
            f"the model's chat template cannot write a chat of {roles} ({type(error).__name__}: {error}): {REMEDY}"
        ) from None
    if len(text) > LONGEST + sum(len(message["content"]) for message in chat):
        raise UserError(
            f"the model's chat template writes {len(text):,} characters for a chat of {roles}, more than {LONGEST:,} "
            f"around the messages: {REMEDY}"
        )
    return text


def try_template(*, template: str, tokens: Mapping[str, str]) -> None:
    """Write some chats with `template` as transformers would; errors are left to `render_chat`.

    For a process that can be killed: one operation on huge numbers or lists of lists cannot be stopped otherwise.
    """
    from jinja2 import TemplateError  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, *_: Any, **options: Any) -> str:
        return json.dumps(value, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    given = {**tokens, "tools": None, "documents": None}
    system, user, assistant = ({"role": role, "content": PROBE} for role in ("system", "user", "assistant"))
    for chat in ([user], [system, user], [user, assistant], [system, user, assistant, user]):
        for prompts in (False, True):
            with suppress(Exception):  # whatever a template may raise
                compiled = environment.from_string(GENERATION.sub("", template))
                compiled.render(messages=chat, add_generation_prompt=prompts, **given)


def render_target(problem: Problem, tags: Tags) -> str:
    """The completion that the format pre-finetune teaches, with the opening tag and without the end of sequence."""
    return (
        f"{tags.reasoning_start}{problem.working}{tags.reasoning_end}"
        f"{tags.answer_start}{problem.solution or problem.answer}{tags.answer_end}"
    )


@dataclass(frozen=True)
class Reading:
    """The parts of a completion by its tags, None where the tags are missing.

    `answer` is the answer of a well-formed completion. `tagged` is the text in the last answer tags of any completion,
    after the end of its reasoning. `reasoning` is the text between the first pair of reasoning tags. `counts` has the
    number of each tag.
    """

    answer: str | None
    tagged: str | None
    reasoning: str | None
    counts: tuple[int, int, int, int]


def plain_boxes(text: str, tags: Tags) -> str:
    """`text` with each box written as the tags have it, if they are \\boxed{ and }."""
    if not tags.is_box or tags.marks()[2] != BOX:
        return text
    return BOXES.sub(lambda match: f"{BOX}{match['bare']}}}" if match["bare"] else BOX, text)


def read(text: str, tags: Tags) -> Reading:
    start, end, answer_start, answer_end = tags.marks()
    _, start_tag, rest = text.partition(start)
    reasoning, end_tag, _ = rest.partition(end)
    text = plain_boxes(text, tags)
    ends = len(list(_boxes(text, answer_start))) if tags.is_box else text.count(answer_end)
    counts = text.count(start), text.count(end), text.count(answer_start), ends
    return Reading(
        extract_answer(text, tags), extract_tagged(text, tags), reasoning if start_tag and end_tag else None, counts
    )


def extract_answer(text: str, tags: Tags) -> str | None:
    """The answer of a well-formed completion: each tag once and in order, nothing before, between or after.

    The reasoning may mention the answer's tags. Around a box there may be words. White space that belongs to the answer
    tags, such as the line breaks of xml, is not part of the answer.
    """
    start, end, answer_start, answer_end = tags.marks()
    body = plain_boxes(text, tags).strip()
    if not body.startswith(start):
        return None
    reasoning, tag, rest = body[len(start) :].partition(end)
    if not tag or not reasoning or start in reasoning or start in rest or end in rest:
        return None
    if tags.is_box:
        boxes = list(_boxes(rest, answer_start))
        return boxes[0] if len(boxes) == 1 == rest.count(answer_start) and boxes[0] else None
    rest = rest.lstrip()
    answer = rest[len(answer_start) : -len(answer_end)]
    if not rest.startswith(answer_start) or not rest.endswith(answer_end) or not answer:
        return None
    if answer_start in answer or answer_end in answer:
        return None
    lead, trail = (
        tags.answer_start[len(tags.answer_start.rstrip()) :],
        tags.answer_end[: -len(tags.answer_end.lstrip())],
    )
    return answer.removeprefix(lead).removesuffix(trail)


def extract_tagged(text: str, tags: Tags) -> str | None:
    """The text in the last answer tags after the end of the reasoning; without an end tag, up to the end of the text.

    None without the tag.
    """
    _, end, answer_start, answer_end = tags.marks()
    rest = plain_boxes(text, tags).rpartition(end)[2]
    if tags.is_box and (boxes := list(_boxes(rest, answer_start))):
        return boxes[-1]
    closed, last = rest.rfind(answer_end), rest.rfind(answer_start)
    before = rest.rfind(answer_start, 0, closed) if closed >= 0 and not tags.is_box else -1
    if last < 0:
        return None
    return rest[(last if before < 0 else before) + len(answer_start) :].partition(answer_end)[0]


def _boxes(text: str, opening: str) -> Iterator[str]:
    """The contents of the boxes whose braces close, such as \\boxed{\\frac{1}{2}}, in the order in which they close."""
    open_at: list[int | None] = []  # where the content of a box begins; None for another brace
    for match in re.finditer(rf"{re.escape(opening)}|\\\\.|[{{}}]", text, re.DOTALL):
        if match[0] == opening:
            open_at.append(match.end())
        elif match[0] == "{":
            open_at.append(None)
        elif match[0] == "}" and open_at and (start := open_at.pop()) is not None:
            yield text[start : match.start()]


def last_number(text: str) -> str | None:
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None
