"""What must be true of a tokenizer before anything is trained with it."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

from rlvr import chat as chats
from rlvr.chat import CHAT_TEMPLATE, REMEDY, Tags, messages, render_chat
from rlvr.types import Message, UserError
from rlvr.verifiers.workers.pool import Workers

TRY_SECONDS = 120.0  # of a machine that does much else; RENDER_SECONDS are of computing
MARK = "0"  # an answer that every vocabulary holds


def turn_end(tokenizer: Any) -> int | None:
    """The special token with which the chat template closes an assistant's turn; None if it uses none.

    Chat models stop there, whatever the tokenizer calls its end of sequence (Llama 3: <|eot_id|>).
    """
    chat: list[Message] = [*messages(MARK, None), {"role": "assistant", "content": MARK}]
    text = render_chat(tokenizer, chat, add_generation_prompt=False)
    after = tokenizer.encode(text.rpartition(MARK)[2], add_special_tokens=False)
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    return next((token for token in after[:2] if token in special), None)


def check_template(tokenizer: Any) -> None:
    """Raises UserError for a chat template that cannot be rendered, does not end, or leaves out the question."""
    with suppress(ValueError):  # it has none, or several of which none is the default: render_chat says so
        template = tokenizer.get_chat_template()
        tokens = tokenizer.special_tokens_map.items()
        if template != CHAT_TEMPLATE and (why := _endless(template, tuple((k, str(v)) for k, v in tokens))):
            raise UserError(f"the model's chat template cannot write a chat ({why}): {REMEDY}")
    if MARK not in render_chat(tokenizer, messages(MARK, None), add_generation_prompt=False):
        raise UserError("the model's chat template writes no question into the prompt: use another model or template")


@cache
def _endless(template: str, tokens: tuple[tuple[str, str], ...]) -> str | None:
    """Why the template is stopped, tried in a process that can be killed at any operation; None if it ends."""
    with Workers(1, memory_bytes=2 * chats.RENDER_BYTES) as workers:
        reply = workers.submit(
            "rlvr.chat:try_template", {"template": template, "tokens": dict(tokens)},
            seconds=TRY_SECONDS, cpu_seconds=chats.RENDER_SECONDS,
        ).result()  # fmt: skip
    return reply.message if reply.failure in ("timeout", "memory", "crash") else None


def target_end(tokenizer: Any) -> int:
    """The token that ends a completion in the format pre-finetune. Raises UserError when there is none."""
    token = turn_end(tokenizer)
    token = tokenizer.eos_token_id if token is None else token
    if token is None:
        raise UserError("neither the chat template nor the tokenizer names a token that ends an answer")
    return int(token)


def describe(tokenizer: Any, tags: Tags) -> dict[str, Any]:
    """For the card: ids that end and pad, and of each tag its tokens and whether they stay the same in context.

    A tag that is not `stable` merges with its neighbours. It can be learnt all the same, since sampled tokens are the
    tokens that are trained on.
    """
    return {
        "end": tokenizer.convert_ids_to_tokens(target_end(tokenizer)),
        "eos": tokenizer.eos_token,
        "pad": tokenizer.pad_token,
        "pad_is_eos": tokenizer.pad_token_id == tokenizer.eos_token_id,
        "tags": {
            mark: {"tokens": len(_encode(tokenizer, mark)), "stable": _is_stable(tokenizer, mark)}
            for mark in tags.marks()
        },
    }


def check_round_trip(tokenizer: Any, text: str) -> None:
    """Raise UserError unless decoding the tokens of `text` gives `text` back: rewards read what is decoded."""
    back = tokenizer.decode(_encode(tokenizer, text), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != text:
        at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
        raise UserError(
            f"the tokenizer does not give this text back: {text[max(0, at - 30) : at + 30]!r} becomes "
            f"{back[max(0, at - 30) : at + 30]!r}; change model.template.tags, or the data"
        )


def _is_stable(tokenizer: Any, mark: str) -> bool:
    alone = _encode(tokenizer, mark)
    return all(
        _contains(_encode(tokenizer, before + mark + after), alone)
        for before in ("", "x", "5", "\n", ". ", ">")
        for after in ("", "x", "5", "\n", " ", "<")
    )


def _contains(tokens: list[int], part: list[int]) -> bool:
    return any(tokens[i : i + len(part)] == part for i in range(len(tokens) - len(part) + 1))


def _encode(tokenizer: Any, text: str) -> list[int]:
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return tokens
