"""What every sampler does the same way: the seed of a prompt, and completions from the tokens that were drawn."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rlvr.types import Completion, Group, Prompt


def stable_seed(seed: tuple[int | str, ...]) -> int:
    """A number of 63 bits that depends on `seed` alone."""
    return int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:8], "big") >> 1


def make_completions(
    tokenizer: Any, opening: str, token_ids: Sequence[Tensor], logps: Sequence[Tensor], ended: Sequence[bool]
) -> list[Completion]:
    """Completions with the text that rewards read; `ended` says whose last token is an end of sequence."""
    texts = tokenizer.batch_decode(
        [ids.tolist()[: len(ids) - end] for ids, end in zip(token_ids, ended, strict=True)],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return [
        Completion(ids, logp, opening + text, not end)
        for ids, logp, text, end in zip(token_ids, logps, texts, ended, strict=True)
    ]


def places(groups: Sequence[Group], prompts: Sequence[Prompt]) -> list[int]:
    """Where the group of each of `prompts` stands among `groups`, which came as they were finished."""
    places_by_prompt: dict[int, deque[int]] = defaultdict(deque)
    for place, group in enumerate(groups):
        places_by_prompt[id(group.prompt)].append(place)
    return [places_by_prompt[id(prompt)].popleft() for prompt in prompts]
