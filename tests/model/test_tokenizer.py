"""What is checked of a tokenizer, on ones that are built here and behave like the real ones."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlvr.chat import CHAT_TEMPLATE, TAGS, render_prompt
from rlvr.model.tokenizer import check_round_trip, check_template, describe, target_end, turn_end
from rlvr.types import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(
    *,
    eos: str | None = "<|endoftext|>",
    template: Any = CHATML,
    merges: tuple[str, ...] = (),
    lower: bool = False,
) -> Any:
    """A byte-level BPE tokenizer without training: bytes, the given merges, and the special tokens of ChatML."""
    pairs = [(merge[:1], merge[1:]) for merge in merges]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *merges]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    if lower:
        core.normalizer = normalizers.Lowercase()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, pad_token=eos)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def test_a_chat_model_ends_its_turn_where_the_template_does() -> None:
    """Qwen's base tokenizers say <|endoftext|>, but chats end with <|im_end|>."""
    tokenizer = byte_level()
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert im_end != tokenizer.eos_token_id
    assert turn_end(tokenizer) == target_end(tokenizer) == im_end


def test_a_template_without_an_end_falls_back_on_the_tokenizer() -> None:
    tokenizer = byte_level(template="{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    assert turn_end(tokenizer) is None
    assert target_end(tokenizer) == tokenizer.eos_token_id


def test_the_own_template_ends_with_the_end_of_sequence() -> None:
    tokenizer = byte_level(template=CHAT_TEMPLATE)
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_nothing_that_ends_an_answer_is_refused() -> None:
    tokenizer = byte_level(eos=None, template="{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    with pytest.raises(UserError, match="names a token that ends an answer"):
        target_end(tokenizer)


def test_the_card_says_which_tags_merge_with_their_neighbours() -> None:
    plain = describe(byte_level(), TAGS["think"])
    assert plain["end"] == "<|im_end|>" and plain["eos"] == "<|endoftext|>" and plain["pad_is_eos"] is True
    assert plain["tags"]["<think>"] == {"tokens": 7, "stable": True}
    merging = describe(byte_level(merges=("><",)), TAGS["think"])
    assert merging["tags"]["<think>"] == {"tokens": 7, "stable": False}


def test_a_tag_that_is_one_special_token_is_stable() -> None:
    tokenizer = byte_level(merges=("><",))
    tokenizer.add_tokens(["<think>"], special_tokens=True)
    assert describe(tokenizer, TAGS["think"])["tags"]["<think>"] == {"tokens": 1, "stable": True}


@pytest.mark.parametrize("text", ["What is 2+2?\n", "naïve £5 → 日本 🦆", "  two  spaces , and .", ""])
def test_round_trip_holds_byte_by_byte(text: str) -> None:
    check_round_trip(byte_level(), text)


def test_round_trip_shows_where_it_breaks() -> None:
    with pytest.raises(UserError, match=r"'<SOLUTION>4' becomes '<solution>4'"):
        check_round_trip(byte_level(lower=True), "<SOLUTION>4")


@pytest.mark.parametrize("refuses", [True, False])
def test_a_template_without_system_prompts_gets_it_with_the_first_question(refuses: bool) -> None:
    """Gemma's template raises; others leave it out in silence."""
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    turn = "{% if m['role'] != 'system' %}[{{ m['role'] }}] {{ m['content'] }}{% endif %}"
    turns = "{% for m in messages %}" + turn + "{% endfor %}"
    tokenizer = byte_level(template=(refusal if refuses else "") + turns)
    found = render_prompt(tokenizer, "2+2?", system_prompt="Be brief.", opening="<think>")
    assert found == "[user] Be brief.\n\n2+2?<think>"
    assert render_prompt(tokenizer, "2+2?", system_prompt=None, opening="") == "[user] 2+2?"
    assert render_prompt(byte_level(), "2+2?", system_prompt="Be brief.", opening="").startswith(
        "<|im_start|>system\nBe"
    )


class TestTemplatesThatDoNotEnd:
    """One operation of each takes hours, and nothing but the end of its process stops it."""

    ENDLESS = {  # noqa: RUF012
        "a power": "{{ 10 ** (10 ** 9) }}",
        "a power of what is given": "{% for m in messages %}{{ (m.content|length + 9) ** (10 ** 9) > 1 }}{% endfor %}",
        "rounding": "{{ 5 | round(-(10 ** 9)) }}",
        "lists of lists": "{% set ns = namespace(a=[], b=[]) %}{% for i in range(40) %}{% set ns.a = [ns.a, ns.a] %}"
        "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
        "in a block of transformers": "{% generation %}{{ 10 ** (10 ** 9) }}{% endgeneration %}",
        "after a filter of transformers": "{{ messages | tojson(ensure_ascii=False) }}{{ 10 ** (10 ** 9) }}",
        "with a system prompt": "{% if messages[0].role == 'system' %}{{ 10 ** (10 ** 9) }}{% endif %}" + CHATML,
    }

    @pytest.mark.parametrize("name", ENDLESS)
    def test_one_message_within_seconds(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rlvr.chat.RENDER_SECONDS", 0.5)
        with pytest.raises(UserError, match=r"cannot write a chat \(over its limit of 0\.5 s of CPU time\): repair"):
            check_template(byte_level(template=self.ENDLESS[name]))

    @pytest.mark.parametrize("template", ["{{ 'a' * 10 ** 12 }}", '{{ "%9999999999d" % 1 }}'])
    def test_memory_is_bounded_as_well(self, template: str) -> None:
        with pytest.raises(UserError, match="the model's chat template cannot write a chat"):
            check_template(byte_level(template=template))

    def test_a_template_that_raises_or_is_none_is_told_as_before(self) -> None:
        for template in ("{{ raise_exception('no') }}", "{% for %}", {"tools": CHATML}):
            with pytest.raises(UserError, match="cannot write a chat of user"):
                check_template(byte_level(template=template))

    def test_a_template_is_tried_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check_template(byte_level())
        monkeypatch.setattr("rlvr.model.tokenizer.Workers", None)
        check_template(byte_level())
