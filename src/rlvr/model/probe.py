"""Whether a model computes here what it computes by itself: packed rows against its own attention, one row at a time.

A class that keeps more than keys and values, or attends in a way that the attention here does not know, would train
another model without a word. A few dozen tokens show it, on the weights that are loaded anyway.
"""
# S tokens of the flat stream · R rows · V vocabulary

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlvr.attention import PackedLayout
from rlvr.attention import layout as attention
from rlvr.model.files import reason
from rlvr.types import UserError

PROMPTS, COMPLETIONS = (5, 12), ((4, 17), (1, 9))  # tokens of each prompt, and of its completions
WINDOW = 6  # tokens, so that rows reach over it
WINDOWS = ("sliding_window", "attention_chunk_size")
KINDS = {"full_attention", "sliding_attention", "linear_attention"}  # others choose tokens of long texts only
REMEDY = "docs/models.md lists the models that can"


class Watched(PackedLayout):
    """A packed layout that notes which layers ask it."""

    def __init__(self, *lengths: Any) -> None:
        super().__init__(*lengths)
        self.layers: set[int] = set()

    def attend(self, layer: int, *args: Any, **options: Any) -> Tensor:
        self.layers.add(layer)
        return super().attend(layer, *args, **options)


def check_packed(model: Any, *, name: str) -> None:
    """Raises UserError where the logits of packed rows are not those of the rows by themselves, to the rounding."""
    if other := _kinds(model) - KINDS:
        raise UserError(f"{_refusal(model, name)}: it has layers of the kinds {', '.join(sorted(other))}; {REMEDY}")
    with refused(model, name):
        found_TV, own_TV, layers = packed_and_own(model)
    check_same(model, name, found_TV, own_TV, reason=_reason(model, layers))


@torch.no_grad()
def packed_and_own(model: Any) -> tuple[Tensor, Tensor, set[int]]:
    """Logits of completions in one packed stream, and those of the model by itself; which layers asked the layout."""
    rows = sample_rows(model)
    prompts = [row[:n] for row, n in zip(rows[:: len(COMPLETIONS[0])], PROMPTS, strict=True)]
    owners = [p for p, lengths in enumerate(COMPLETIONS) for _ in lengths]
    lengths = [n for of_prompt in COMPLETIONS for n in of_prompt]
    token_S = torch.cat([*prompts, *(row[PROMPTS[p] :] for p, row in zip(owners, rows, strict=True))])
    behind = [torch.arange(PROMPTS[p], PROMPTS[p] + n) for p, n in zip(owners, lengths, strict=True)]
    position_S = torch.cat([*map(torch.arange, PROMPTS), *behind]).to(token_S.device)
    layout = Watched(list(PROMPTS), lengths, owners, token_S.device)
    with short_windows(model):
        found_SV = model(input_ids=token_S[None], position_ids=position_S[None], use_cache=False, layout=layout).logits[
            0
        ]
        own = [logits[PROMPTS[p] :] for p, logits in zip(owners, own_logits(model, rows), strict=True)]
    return found_SV[sum(PROMPTS) :], torch.cat(own), layout.layers


def sample_rows(model: Any) -> list[Tensor]:
    """The tokens of each row, its prompt first; those of a prompt begin alike."""
    embeddings = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> Tensor:
        vocabulary = model.config.get_text_config().vocab_size
        return torch.randint(vocabulary, (count,), generator=generator).to(embeddings.device)

    prompts = [tokens(n) for n in PROMPTS]
    return [torch.cat([prompt, tokens(n)]) for prompt, ns in zip(prompts, COMPLETIONS, strict=True) for n in ns]


def own_logits(model: Any, rows: Sequence[Tensor]) -> list[Tensor]:
    """What the model itself makes of each row, alone and from its start. [length, V] each"""
    model.set_attn_implementation("eager")
    try:
        return [model(input_ids=row[None], use_cache=False).logits[0] for row in rows]
    finally:
        model.set_attn_implementation(attention.NAME)


def check_same(model: Any, name: str, found_TV: Tensor, own_TV: Tensor, *, reason: str) -> None:
    """Raises UserError where logits differ by more than half of the digits that the model's type has.

    A deep model rounds some of the digits away; another model differs in nearly all.
    """
    found_TV, own_TV = (x.double() for x in (found_TV, own_TV))
    distance = ((found_TV - own_TV).norm() / (own_TV - own_TV.mean(-1, keepdim=True)).norm()).item()
    if not distance <= max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5:
        raise UserError(
            f"{_refusal(model, name)}: {reason}. Logits differ from those that it gives by itself by {distance:.2g} of "
            f"their size; {REMEDY}"
        )


@contextmanager
def short_windows(model: Any) -> Iterator[None]:
    """Meanwhile windows and chunks are so short that a few tokens reach over them."""
    owners = [model.config.get_text_config(), *model.modules()]
    windows = [
        (owner, key, vars(owner)[key]) for owner in owners for key in WINDOWS if (vars(owner).get(key) or 0) > WINDOW
    ]
    for owner, key, _ in windows:
        setattr(owner, key, WINDOW)
    try:
        yield
    finally:
        for owner, key, window in windows:
            setattr(owner, key, window)


@contextmanager
def refused(model: Any, name: str) -> Iterator[None]:
    """What fails inside becomes a UserError that names the class."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a class of transformers raises when it is called in a way it does not know
        raise UserError(f"{_refusal(model, name)}: {reason(error)}; {REMEDY}") from error


def _refusal(model: Any, name: str) -> str:
    return f"{name}: {type(model).__name__} (model_type {model.config.model_type}) cannot be trained here"


def _kinds(model: Any) -> set[str]:
    return set(getattr(model.config.get_text_config(), "layer_types", None) or ())


def _reason(model: Any, layers: Collection[int]) -> str:
    if "linear_attention" in _kinds(model):
        return "it has layers that carry a state, other than gated delta nets"
    if not layers:
        return "it does not call transformers' attention interface, so rows would see each other"
    if len(layers) < (total := model.config.get_text_config().num_hidden_layers):
        return f"only {len(layers)} of its {total} layers call transformers' attention interface"
    return "its attention, or another part of it, depends on more than queries, keys and values of a row"
