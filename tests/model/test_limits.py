"""What a model's config says that it can take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from rlvr.model.limits import check_config, check_ids, check_length, most_tokens
from rlvr.model.policy import load_tokenizer
from rlvr.model.source import Source
from rlvr.types import UserError

LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 40}


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("llama", {"max_position_embeddings": 64}, 64),
        ("gpt2", {"n_positions": 48}, 48),
        ("bloom", {}, None),
        ("phi3", {"max_position_embeddings": 128, "original_max_position_embeddings": 32, "rope_parameters": LONGROPE,
                  "pad_token_id": 0}, 32),
        ("qwen3", {"max_position_embeddings": 40, "rope_parameters": YARN}, 160),
        ("qwen3", {"max_position_embeddings": 160, "rope_parameters": YARN}, 160),
        ("llama", {"max_position_embeddings": 64, "rope_parameters": {
            "rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, 64),
        ("qwen3_5", {"text_config": {"max_position_embeddings": 96}}, 96),
    ],
)  # fmt: skip
def test_the_longest_sequence(kind: str, changes: dict[str, Any], expected: int | None) -> None:
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    assert most_tokens(AutoConfig.for_model(kind, **(shape | changes)))[0] == expected


def test_a_sequence_that_is_too_long_is_refused_with_the_setting_that_helps() -> None:
    config = AutoConfig.for_model("llama", max_position_embeddings=64)
    check_length(config, prompt_tokens=40, completion_tokens=24)
    with pytest.raises(
        UserError, match=r"has 41 tokens and rollout\.max_completion_tokens is 24.* at most 64 in total"
    ):
        check_length(config, prompt_tokens=41, completion_tokens=24)


def test_a_token_without_an_embedding_is_named_with_both_sizes(base: Callable[[str], Path]) -> None:
    """The tokenizer alone may know more: the one of Gemma-3-1B knows a token for images."""
    tokenizer = load_tokenizer(base("llama"))
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|more|>"]})
    check_ids(config, tokenizer, [0, len(tokenizer) - 2])
    with pytest.raises(UserError, match=rf"'<\|more\|>' has the id {config.vocab_size}, .* {config.vocab_size} tokens"):
        check_ids(config, tokenizer, [0, len(tokenizer) - 1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2", "n_embd": 8, "n_head": 2}, r"is of type gpt2, which is not supported.*docs/models\.md"),
        ({"model_type": "t5"}, "is of type t5, for which transformers has no causal language model"),
        ({"model_type": "no_such_thing"}, "cannot be read: .*no_such_thing"),
        ({}, "cannot be read: "),
        ([1], "cannot be read: "),
        ({"model_type": "llama", "hidden_size": "wide"}, "cannot be read: "),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(values: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        check_config(Source(str(tmp_path), None, None))


@pytest.mark.parametrize("packed", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes"}])
def test_weights_that_are_quantized_already_are_refused(packed: dict[str, Any], tmp_path: Path) -> None:
    AutoConfig.for_model("llama", hidden_size=64, num_attention_heads=4).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    check_config(Source(str(tmp_path), None, None))
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": packed}))
    with pytest.raises(UserError, match=rf"quantized already \({packed['quant_method']}\).* use the model in 16 bits"):
        check_config(Source(str(tmp_path), None, None))
