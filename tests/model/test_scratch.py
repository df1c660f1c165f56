"""The scratch tokenizer loses nothing, and the scratch model is what the parameters say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.chat import TAGS, Tags, render_prompt, render_target
from rlvr.config import Config
from rlvr.model.scratch import EOS, PAD, UNKNOWN, make_tokenizer
from rlvr.tasks.arithmetic import problem
from rlvr.types import UserError
from support.loading import save_scratch

EVERY_TAGS = pytest.mark.parametrize("name", TAGS)
SYSTEM = "You add numbers. Think first!"


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    """By name of the tags; made from one problem, so that the others are new to them."""
    seen = problem(47, 38, 2)
    return {
        name: make_tokenizer([seen.question, render_target(seen, tags), SYSTEM], tags) for name, tags in TAGS.items()
    }


@EVERY_TAGS
@given(a=st.integers(0, 10**9), b=st.integers(0, 10**9), opening=st.booleans(), system=st.booleans())
def test_any_problem_comes_back(
    name: str, tokenizers: dict[str, Any], a: int, b: int, opening: bool, system: bool
) -> None:
    tokenizer, tags, p = tokenizers[name], TAGS[name], problem(a, b, 1)
    prompt = render_prompt(
        tokenizer,
        p.question,
        system_prompt=SYSTEM if system else None,
        opening=tags.reasoning_start if opening else "",
    )
    for text in (prompt, render_target(p, tags)):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.batch_decode([ids], skip_special_tokens=False, clean_up_tokenization_spaces=False) == [text]


@EVERY_TAGS
def test_tags_roles_and_digits_are_one_token_each(name: str, tokenizers: dict[str, Any]) -> None:
    tokenizer, tags = tokenizers[name], TAGS[name]
    for mark in (*tags.marks(), "<|system|>", "<|user|>", "<|assistant|>", *"0123456789", EOS, PAD):
        assert len(tokenizer.encode(mark, add_special_tokens=False)) == 1, mark
    assert tokenizer.encode("471", add_special_tokens=False) == [
        tokenizer.convert_tokens_to_ids(digit) for digit in "471"
    ]


def test_end_and_padding_are_two_tokens(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["working_out"]
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (EOS, PAD, UNKNOWN)
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}) == 3


def test_the_prompt_of_the_default_has_eleven_tokens(tokenizers: dict[str, Any]) -> None:
    """user, What, is, four digits, plus, question mark, assistant: ten and a space."""
    tokenizer = tokenizers["working_out"]
    prompt = render_prompt(tokenizer, "What is 47+38?", system_prompt=None, opening="")
    assert tokenizer.tokenize(prompt) == [
        "<|user|>", "What", " is", " ", "4", "7", "+", "3", "8", "?", "<|assistant|>"
    ]  # fmt: skip


def test_the_order_of_the_texts_does_not_matter() -> None:
    texts = [problem(a, 7, 1).question for a in range(5)] + ["some other words", "more"]
    one, other = (make_tokenizer(t, TAGS["think"]) for t in (texts, texts[::-1]))
    assert one.get_vocab() == other.get_vocab()


@pytest.mark.parametrize("taken", ["<|end|>", "<|user|>"])
def test_tags_that_the_tokenizer_needs_itself_are_refused(taken: str) -> None:
    with pytest.raises(UserError, match=r"model\.template\.tags: the scratch tokenizer needs .* itself"):
        make_tokenizer(["a"], Tags("<a>", "<b>", "<c>", taken))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5), st.sampled_from(list(TAGS.values())))
def test_any_text_it_is_made_for_comes_back(texts: list[str], tags: Tags) -> None:
    """make_tokenizer checks this itself; here it must never have to refuse."""
    tokenizer = make_tokenizer(texts, tags)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


class TestModel:
    SHAPE = {  # noqa: RUF012
        "model.scratch.hidden_size": 128,
        "model.scratch.layers": 3,
        "model.scratch.heads": 4,
        "model.scratch.kv_heads": 2,
        "model.scratch.intermediate_size": 96,
        "prepare.max_prompt_tokens": 20,
        "rollout.max_completion_tokens": 30,
    }

    @pytest.mark.parametrize("architecture, kind", [("llama", "LlamaForCausalLM"), ("qwen3", "Qwen3ForCausalLM")])
    def test_it_has_the_shape_of_the_parameters(
        self,
        architecture: str,
        kind: str,
        make_config: Callable[..., Config],
        tokenizers: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        tokenizer = tokenizers["working_out"]
        save_scratch(make_config(self.SHAPE | {"model.scratch.architecture": architecture}), tokenizer, tmp_path)
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
        config = model.config
        assert type(model).__name__ == kind
        assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 3, 4)
        assert (config.num_key_value_heads, config.head_dim, config.intermediate_size) == (2, 32, 96)
        assert config.max_position_embeddings == 50
        assert config.vocab_size == len(tokenizer)
        assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        assert model.dtype == torch.float32
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert again.get_vocab() == tokenizer.get_vocab()
        assert again.chat_template == tokenizer.chat_template
        text = render_prompt(again, "What is 47+38?", system_prompt=SYSTEM, opening="")
        assert again.decode(again.encode(text, add_special_tokens=False)) == text

    def test_the_seed_alone_decides(
        self, make_config: Callable[..., Config], tokenizers: dict[str, Any], tmp_path: Path
    ) -> None:
        def save(name: str, seed: int) -> bytes:
            torch.manual_seed(len(name))  # whatever the global state is
            state = torch.get_rng_state()
            save_scratch(make_config({"compute.seed": seed}), tokenizers["think"], tmp_path / name)
            assert torch.equal(torch.get_rng_state(), state)
            return (tmp_path / name / "model.safetensors").read_bytes()

        assert save("a", 0) == save("bb", 0)
        assert save("ccc", 1) != save("dddd", 0)

    def test_nothing_of_the_machine_is_written(
        self, make_config: Callable[..., Config], tokenizers: dict[str, Any], tmp_path: Path
    ) -> None:
        save_scratch(make_config(), tokenizers["think"], tmp_path)
        for path in tmp_path.glob("*.json"):
            json.loads(path.read_text())
            assert str(tmp_path) not in path.read_text()
