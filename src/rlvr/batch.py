"""From groups of completions to flat micro-batches: shifted, masked and counted once, here.

The last token of the prompt belongs to each row: a row's input is that token and its completion without the last
token, so every input token of a row predicts exactly one trained token, and the rest of the prompt is a prefix
that the rows of a group share. Nothing is padded, and there is no mask to get wrong.
"""
# P prompts · G completions per prompt · B = P·G rows · R rows of a micro-batch · S input tokens · T trained tokens

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from rlvr.attention import PackedLayout
from rlvr.attention.shared_prompt import BehindPrompt, SharedPrompt
from rlvr.types import Group, SharePrompts, Totals


@dataclass(frozen=True)
class TrainRow:
    """One completion to train on. `group` numbers the prompt whose prefix it shares."""

    group: int
    prompt: tuple[int, ...]
    token_ids: Tensor
    sampler_logp: Tensor
    advantage: float


@dataclass(frozen=True)
class MicroBatch:
    """A piece of an optimizer step that fits in memory; it changes nothing else.

    The input stream `token_S` holds the shared prefixes, then the rows; position s of the row part predicts
    `target_T`[s]. `row_T` says to which row of the micro-batch a trained token belongs.
    """

    token_S: Tensor
    position_S: Tensor
    layout: PackedLayout | BehindPrompt
    target_T: Tensor
    row_T: Tensor
    advantage_T: Tensor
    sampler_logp_T: Tensor
    old_logp_T: Tensor | None = None
    reference_logp_T: Tensor | None = None


@dataclass(frozen=True)
class MiniBatch:
    """What one optimizer step sees: the rows with a gradient, and the counts of all rows."""

    rows: tuple[TrainRow, ...]
    totals: Totals

    def split(self, tokens_per_micro_batch: int, device: torch.device) -> list[MicroBatch]:
        """Micro-batches of at most that many input tokens each; prefixes are repeated where a group is split."""
        return [micro_batch(rows, device) for rows in _by_tokens(self.rows, tokens_per_micro_batch)]

    def split_sharing(
        self, tokens_per_micro_batch: int, device: torch.device, *, share_prompts: SharePrompts
    ) -> list[MicroBatch]:
        """`split`, where the prompt of a group that is too large for one micro-batch gets its own pass.

        Its completions then fill micro-batches without it, and policy.in_turn must go over them. `on` treats
        every group so that has two rows and a prefix, `off` none.
        """
        limit = {"auto": tokens_per_micro_batch, "on": 0, "off": math.inf}[share_prompts]
        together: list[TrainRow] = []
        apart: list[MicroBatch] = []
        for _, neighbours in groupby(self.rows, key=lambda row: row.group):
            rows = list(neighbours)
            if len(rows) > 1 and len(rows[0].prompt) > 1 and _num_tokens(rows) > limit:
                apart += _behind_prompt(rows, tokens_per_micro_batch, device)
            else:
                together += rows
        return replace(self, rows=tuple(together)).split(tokens_per_micro_batch, device) + apart


def pack(
    groups: Sequence[Group],
    advantage_PG: Tensor,
    scorable_PG: Tensor,
    keep_P: Sequence[bool],
    *,
    minibatches: int,
    mask_truncated: bool,
) -> list[MiniBatch]:
    """Split a rollout into disjoint minibatches of whole groups.

    Groups without `keep` have no gradient and are not computed; their tokens count as trained tokens. Completions that
    are unscorable or masked for truncation have no trained token. All count as rows.
    """
    scorable = scorable_PG.tolist()
    advantages = advantage_PG.tolist()
    size = len(groups) // minibatches
    parts = []
    for first in range(0, len(groups), size):
        rows: list[TrainRow] = []
        tokens = 0
        for p in range(first, first + size):
            prompt, completions = groups[p].prompt.tokens, groups[p].completions
            for completion, advantage, is_scorable in zip(completions, advantages[p], scorable[p], strict=True):
                if not is_scorable or (mask_truncated and completion.is_truncated):
                    continue
                tokens += len(completion.token_ids)
                if keep_P[p]:
                    rows.append(TrainRow(p, prompt, completion.token_ids, completion.logp, advantage))
        num_rows = sum(len(group.completions) for group in groups[first : first + size])
        parts.append(MiniBatch(tuple(_by_length(rows)), Totals(rows=num_rows, tokens=tokens)))
    return parts


def supervised(examples: Sequence[tuple[tuple[int, ...], Tensor]]) -> tuple[TrainRow, ...]:
    """Rows for supervised training and for scoring: each (prompt, target) is its own group."""
    rows = [TrainRow(i, prompt, target, torch.zeros(len(target)), 1.0) for i, (prompt, target) in enumerate(examples)]
    return tuple(rows)


def micro_batch(rows: Sequence[TrainRow], device: torch.device) -> MicroBatch:
    """Lay `rows`, those of a group side by side, into one flat stream."""
    prefixes: dict[int, tuple[int, ...]] = {row.group: row.prompt[:-1] for row in rows}
    number = {group: i for i, group in enumerate(prefixes)}
    row_lengths = [len(row.token_ids) for row in rows]
    starts = torch.tensor([len(row.prompt) - 1 for row in rows])
    length_R = torch.tensor(row_lengths)
    row_T = torch.arange(len(rows)).repeat_interleave(length_R)
    target_T = torch.cat([row.token_ids for row in rows])
    first_R = length_R.cumsum(0) - length_R
    input_T = target_T.roll(1)
    input_T[first_R] = torch.tensor([row.prompt[-1] for row in rows])
    row_position_T = torch.arange(len(target_T)) - first_R[row_T] + starts[row_T]
    prefix_tokens = [token for prefix in prefixes.values() for token in prefix]
    prefix_positions = [i for prefix in prefixes.values() for i in range(len(prefix))]
    layout = PackedLayout(
        [len(prefix) for prefix in prefixes.values()], row_lengths, [number[row.group] for row in rows], device
    )
    return MicroBatch(
        token_S=torch.cat([torch.tensor(prefix_tokens, dtype=torch.int64), input_T]).to(device),
        position_S=torch.cat([torch.tensor(prefix_positions, dtype=torch.int64), row_position_T]).to(device),
        layout=layout,
        target_T=target_T.to(device),
        row_T=row_T.to(device),
        advantage_T=torch.tensor([row.advantage for row in rows], dtype=torch.float32)[row_T].to(device),
        sampler_logp_T=torch.cat([row.sampler_logp for row in rows]).to(device),
    )


def _behind_prompt(rows: Sequence[TrainRow], budget: int, device: torch.device) -> Iterator[MicroBatch]:
    """Micro-batches of completions of one prompt, behind it."""
    prompt: SharedPrompt | None = None
    cut = len(rows[0].prompt) - 1
    for part in _by_tokens(rows, budget, prefixes=False):
        micro = micro_batch(part, device)
        prompt = prompt or SharedPrompt(micro.token_S[:cut], micro.position_S[:cut])
        layout = BehindPrompt(prompt, [len(row.token_ids) for row in part])
        yield replace(micro, token_S=micro.token_S[cut:], position_S=micro.position_S[cut:], layout=layout)


def _num_tokens(rows: Sequence[TrainRow]) -> int:
    """Input tokens of the rows of one group, its prefix once."""
    return len(rows[0].prompt) - 1 + sum(len(row.token_ids) for row in rows)


def _by_length(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """Longest groups first and longest rows first inside them: neighbours in a micro-batch have similar lengths."""
    longest: dict[int, int] = {}
    for row in rows:
        longest[row.group] = max(longest.get(row.group, 0), len(row.token_ids))
    return sorted(rows, key=lambda row: (-longest[row.group], row.group, -len(row.token_ids)))


def _by_tokens(rows: Sequence[TrainRow], budget: int, *, prefixes: bool = True) -> Iterator[list[TrainRow]]:
    """Neighbours of at most `budget` input tokens, among them the `prefixes` if they are in the stream."""
    taken: list[TrainRow] = []
    tokens = 0
    for row in rows:
        prefix = len(row.prompt) - 1 if prefixes else 0
        cost = len(row.token_ids) + (0 if taken and taken[-1].group == row.group else prefix)
        if taken and tokens + cost > budget:
            yield taken
            taken, tokens, cost = [], 0, prefix + len(row.token_ids)
        taken.append(row)
        tokens += cost
    if taken:
        yield taken
