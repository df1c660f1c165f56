"""The model of `model.source: scratch`: a tiny decoder with random weights and a tokenizer for its own texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlvr.chat import CHAT_TEMPLATE, Tags
from rlvr.types import UserError

PAD, EOS, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
PIECES = r" ?[A-Za-z]+|[0-9]|[^A-Za-z0-9]"


@dataclass(frozen=True)
class ScratchShape:
    """The shape of the tiny decoder, as section model.scratch has it."""

    architecture: Literal["llama", "qwen3"]
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int


def make_tokenizer(texts: Iterable[str], tags: Tags) -> Any:
    """A word-level tokenizer: one token for each tag, role, word, digit and other character in `texts`.

    It loses nothing: decoding the tokens of any of `texts` gives the text back (raises UserError otherwise).
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    texts = list(texts)
    special = [PAD, EOS, UNKNOWN, *ROLES]
    marks = list(tags.marks())
    if taken := set(special) & set(marks):
        raise UserError(
            f"model.template.tags: the scratch tokenizer needs {', '.join(sorted(taken))} itself; use others"
        )
    pattern = "|".join([*(re.escape(mark) for mark in [*special, *marks]), PIECES])
    pieces = {piece for text in texts for piece in re.findall(pattern, text)}
    words = sorted(pieces.union("0123456789+-=;.,:? ") - {*special, *marks})
    vocabulary = {piece: i for i, piece in enumerate([*special, *marks, *words])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    model.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    for text in texts:
        if tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) != text:
            raise UserError(
                f"the scratch tokenizer cannot write this text back: {text!r}; model.template.tags may clash"
            )
    return tokenizer


def save_model(shape: ScratchShape, tokenizer: Any, folder: Path, *, max_tokens: int, seed: int) -> None:
    """Write a model for sequences of `max_tokens`, its weights drawn from `seed`, and its tokenizer to `folder`."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, Qwen3Config  # noqa: PLC0415

    config = {"llama": LlamaConfig, "qwen3": Qwen3Config}[shape.architecture](
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        head_dim=shape.hidden_size // shape.heads,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
