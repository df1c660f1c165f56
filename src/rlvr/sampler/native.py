"""Sampling in plain torch with the policy's own weights: for CPU, for tests, and where no engine runs.

The prompt is computed once per group and its keys and values are never repeated per completion; finished rows
leave the batch. Each completion draws its tokens from its own random numbers, so they do not depend on which
other rows are computed with it.
"""
# P prompts · R rows being generated · G slots per prompt · V vocabulary · H query heads · N key/value heads
# L length · E head size

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from rlvr.attention import PackedLayout
from rlvr.attention.padded import Ragged
from rlvr.attention.recurrent import Carried, Run
from rlvr.attention.unpadded import Kept
from rlvr.model.policy import Policy
from rlvr.sampler.completions import make_completions, stable_seed
from rlvr.sampler.protocol import Sampling
from rlvr.types import Group, Prompt

COMPACT_BELOW = 0.85  # share of unfinished rows under which the finished ones are dropped from the cache


@dataclass
class NativeSampler:
    """`opening` is the text that the prompt already gives away of the completion (see chat.render_prompt)."""

    tokenizer: Any
    opening: str
    sampling: Sampling
    policy: Policy | None = None

    def base_tensors(self) -> None:
        """It samples from the trainer's own model."""

    def resume(self) -> None:
        pass

    def sync(self, policy: Policy) -> None:
        self.policy = policy

    def at(self, temperature: float) -> Self:
        return replace(self, sampling=replace(self.sampling, temperature=temperature))

    def release(self) -> None:
        pass

    def close(self) -> None:
        self.policy = None

    def sample(
        self, prompts: Sequence[Prompt], completions_per_prompt: int, *, seed: tuple[int, ...]
    ) -> Iterator[Group]:
        """See Sampler.sample; `seed` is mixed with each problem's id."""
        at_once = max(1, self.sampling.max_rows // completions_per_prompt)
        for first in range(0, len(prompts), at_once):
            yield from self._sample(prompts[first : first + at_once], completions_per_prompt, seed)

    @torch.no_grad()
    def _sample(self, prompts: Sequence[Prompt], per_prompt: int, seed: tuple[int, ...]) -> list[Group]:
        assert self.policy is not None, "sync() comes before sample()"
        limit, temperature = self.sampling.max_completion_tokens, self.sampling.temperature
        device = self.policy.device
        eos = torch.tensor(self.policy.eos_ids, device=device)
        uniform_BL = torch.cat([_uniform((*seed, prompt.problem.id), per_prompt, limit) for prompt in prompts]).to(
            device
        )
        token_BL = torch.zeros(uniform_BL.shape, dtype=torch.int64, device=device)
        logp_BL = torch.zeros(uniform_BL.shape, device=device)
        length_B = torch.full((len(uniform_BL),), limit, device=device)

        cache = GroupCache([len(prompt.tokens) for prompt in prompts], limit, device)
        hidden_PD = self._prefill(prompts, cache)
        cache.start(per_prompt)
        row_R = torch.arange(len(uniform_BL), device=device)  # which completion each row being generated is
        hidden_RD = hidden_PD.repeat_interleave(per_prompt, dim=0)
        for step in range(limit):
            token_R, logp_R = _draw(self.policy.logits(hidden_RD), uniform_BL[row_R, step], temperature)
            token_BL[row_R, step], logp_BL[row_R, step] = token_R, logp_R
            is_end_R = torch.isin(token_R, eos)
            ended = row_R[is_end_R]
            length_B[ended] = length_B[ended].clamp(max=step + 1)
            open_R = length_B[row_R] > step + 1
            if step + 1 == limit or not open_R.any():
                break
            if open_R.sum() < COMPACT_BELOW * len(row_R):
                keep = open_R.nonzero()[:, 0]
                row_R, token_R = row_R[keep], token_R[keep]
                cache.keep(keep)
            hidden_RD = self.policy.hidden_stream(token_R, cache.positions(), cache)
            cache.advance()
        return self._groups(prompts, per_prompt, token_BL.cpu(), logp_BL.cpu(), length_B.cpu(), eos.cpu())

    def _prefill(self, prompts: Sequence[Prompt], cache: GroupCache) -> Tensor:
        """Run the prompts, filling the cache; hidden state of each one's last token. [P, D]"""
        assert self.policy is not None
        device = self.policy.device
        token_S = torch.tensor([token for prompt in prompts for token in prompt.tokens], device=device)
        lengths = [len(prompt.tokens) for prompt in prompts]
        position_S = torch.cat([torch.arange(n) for n in lengths]).to(device)
        hidden_SD = self.policy.hidden_stream(token_S, position_S, cache)
        return hidden_SD[torch.tensor(lengths, device=device).cumsum(0) - 1]

    def _groups(
        self,
        prompts: Sequence[Prompt],
        per_prompt: int,
        token_BL: Tensor,
        logp_BL: Tensor,
        length_B: Tensor,
        eos: Tensor,
    ) -> list[Group]:
        lengths = length_B.tolist()
        last_B = token_BL[torch.arange(len(token_BL)), length_B - 1]
        ended = torch.isin(last_B, eos).tolist()
        is_sampled_BL = torch.arange(token_BL.shape[1]) < length_B[:, None]
        token_ids, logps = (torch.split(x[is_sampled_BL], lengths) for x in (token_BL, logp_BL))
        completions = make_completions(self.tokenizer, self.opening, token_ids, logps, ended)
        return [
            Group(prompt, tuple(completions[p * per_prompt : (p + 1) * per_prompt])) for p, prompt in enumerate(prompts)
        ]


class GroupCache:
    """Keys and values of prompts [P, N, L, E] and of completions [R, N, L, E], per layer; or what the layer carries.

    As a layout it first computes the prompts (`attend` before `start`), then one token of every row per call. The
    rows of a prompt sit in slots next to one query, so that its keys are read and never copied per row.
    """

    def __init__(self, prompt_lengths: list[int], limit: int, device: torch.device) -> None:
        self.limit, self.device = limit, device
        self.prompts = Ragged(prompt_lengths, device)
        self.length_P = self.prompts.lengths
        self.prefill: PackedLayout | None = PackedLayout([], prompt_lengths, [], device)
        self.prompt_padding: Tensor | None = None
        self.prompt_keys: dict[int, Tensor] = {}
        self.prompt_values: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.carried: dict[int, Carried] = {}  # of prompts, then of rows
        self.places: dict[int, tuple[Tensor, Tensor]] = {}  # by key/value heads
        self.step = 0

    def start(self, per_prompt: int) -> None:
        """The prompts are done: `per_prompt` rows each begin."""
        assert self.prefill is not None
        if not self.prompts.is_even:
            visible = torch.arange(self.prompts.longest, device=self.device) < self.length_P[:, None]
            self.prompt_padding = torch.zeros(visible.shape, device=self.device).masked_fill(~visible, float("-inf"))
        self.prefill = None
        self.prompt_R = torch.arange(len(self.length_P), device=self.device).repeat_interleave(per_prompt)
        self.carried = {layer: carried.select(self.prompt_R) for layer, carried in self.carried.items()}
        self._place()

    def positions(self) -> Tensor:
        return self.length_P[self.prompt_R] + self.step

    def advance(self) -> None:
        self.step += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows, and the prompts that have none left."""
        for cached in (self.keys, self.values):
            for layer, x in cached.items():
                shrunk = x.new_empty(len(rows), *x.shape[1:])
                shrunk[:, :, : self.step] = x[:, :, : self.step].index_select(0, rows)
                cached[layer] = shrunk
        self.carried = {layer: carried.select(rows) for layer, carried in self.carried.items()}
        prompts, self.prompt_R = torch.unique_consecutive(self.prompt_R[rows], return_inverse=True)
        if len(prompts) < len(self.length_P):
            self.length_P = self.length_P[prompts]
            if self.prompt_padding is not None:
                self.prompt_padding = self.prompt_padding[prompts]
            for cached in (self.prompt_keys, self.prompt_values):
                for layer, x in cached.items():
                    cached[layer] = x[prompts]
        self._place()

    def _place(self) -> None:
        """Give every row a slot of its prompt."""
        count_P = torch.bincount(self.prompt_R, minlength=len(self.length_P))
        first_P = count_P.cumsum(0) - count_P
        self.slots = int(count_P.max())
        self.slot_R = torch.arange(len(self.prompt_R), device=self.device) - first_P[self.prompt_R]
        self.places = {}

    def _places(self, shared: int) -> tuple[Tensor, Tensor]:
        """Where each row's head lies among the slots [P, N, slots], and which one a slot holds: any, where none."""
        if shared not in self.places:
            self.places[shared] = self._find_places(shared)
        return self.places[shared]

    def _find_places(self, shared: int) -> tuple[Tensor, Tensor]:
        head_N = torch.arange(shared, device=self.device)
        place_RN = (self.prompt_R[:, None] * shared + head_N) * self.slots + self.slot_R[:, None]
        place = place_RN.flatten()
        source = place.new_zeros(len(self.length_P) * shared * self.slots)
        return place, source.index_copy_(0, place, torch.arange(len(place), device=self.device))

    def attend(
        self, layer: int, q_SHE: Tensor, k_SNE: Tensor, v_SNE: Tensor, scale: float, window: int | None = None,
        sink_H: Tensor | None = None, kept: Kept | None = None,
    ) -> Tensor:  # fmt: skip
        if self.prefill is not None:
            self.prompt_keys[layer] = self.prompts.pad(k_SNE).transpose(1, 2).contiguous()
            self.prompt_values[layer] = self.prompts.pad(v_SNE).transpose(1, 2).contiguous()
            return self.prefill.attend(layer, q_SHE, k_SNE, v_SNE, scale, window, sink_H)
        rows, heads, size = q_SHE.shape
        shared = k_SNE.shape[1]
        if layer not in self.keys:
            self.keys[layer] = k_SNE.new_empty(rows, shared, self.limit, size)
            self.values[layer] = k_SNE.new_empty(rows, shared, self.limit, size)
        self.keys[layer][:, :, self.step] = k_SNE
        self.values[layer][:, :, self.step] = v_SNE
        first = 0 if window is None else max(0, self.step - window + 1)
        own_k, own_v = (x[layer][:, :, first : self.step + 1] for x in (self.keys, self.values))
        q = q_SHE.reshape(rows, shared, heads // shared, size) * scale

        own_scores = q @ own_k.transpose(-1, -2)
        prompt_scores = self._from_prompt(q, self.prompt_keys[layer].transpose(-1, -2), self._hidden(window))
        scores = [prompt_scores, own_scores]
        if sink_H is not None:
            scores.append(sink_H.to(q.dtype).view(shared, -1, 1).expand(rows, -1, -1, -1))
        weights = torch.cat(scores, dim=-1).float().softmax(-1).to(q.dtype)
        of_prompt, of_own, *_ = torch.split(weights, [x.shape[-1] for x in scores], dim=-1)
        out = of_own @ own_v + self._from_prompt(of_prompt, self.prompt_values[layer], None)
        return out.reshape(rows, heads, size)

    def recur(self, layer: int, x_SD: Tensor, run: Run) -> Tensor:
        if self.prefill is None:
            return run(x_SD[:, None], self.carried[layer])[:, 0]
        prompts = torch.split(x_SD, self.prompts.lengths.tolist())
        each = [Carried() for _ in prompts]
        outputs = [run(x[None], its)[0] for x, its in zip(prompts, each, strict=True)]
        self.carried[layer] = Carried.joined(each)
        return torch.cat(outputs)

    def _hidden(self, window: int | None) -> Tensor | None:
        """−∞ where the next token does not see a prompt's: its padding, and what lies before the window. [P, L]"""
        longest = next(iter(self.prompt_keys.values())).shape[2]
        if window is None or longest + self.step < window:
            return self.prompt_padding
        position_L = torch.arange(longest, device=self.device)
        is_hidden = (self.length_P + self.step - window)[:, None] >= position_L
        base = torch.zeros(is_hidden.shape, device=self.device) if self.prompt_padding is None else self.prompt_padding
        return base.masked_fill(is_hidden, float("-inf"))

    def _from_prompt(self, x: Tensor, prompt: Tensor, padding: Tensor | None) -> Tensor:
        """Multiply each row's x [R, N, H/N, a] with its own prompt's matrix [P, N, a, b], reading that once. → b"""
        rows, shared, repeat, size = x.shape
        place, source = self._places(shared)
        slots = x.reshape(rows * shared, repeat * size).index_select(0, source)
        product = slots.view(len(prompt), shared, self.slots * repeat, size) @ prompt
        if padding is not None:
            product += padding[:, None, None]
        return product.view(len(source), -1).index_select(0, place).view(rows, shared, repeat, -1)


def _uniform(seed: tuple[int | str, ...], rows: int, limit: int) -> Tensor:
    """Uniform random numbers [rows, limit] that depend on `seed` alone."""
    generator = torch.Generator().manual_seed(stable_seed(seed))
    return torch.rand(rows, limit, generator=generator)


def _draw(logits_RV: Tensor, uniform_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token per row by inversion of the cumulative distribution, and its log-probability. [R], [R]"""
    logits_RV = logits_RV.float()
    if temperature == 0.0:
        token_R = logits_RV.argmax(-1)
        return token_R, logits_RV.log_softmax(-1).gather(1, token_R[:, None])[:, 0]
    logp_RV = (logits_RV / temperature).log_softmax(-1)
    total_RV = logp_RV.exp().cumsum(-1)
    threshold_R1 = uniform_R[:, None] * total_RV[:, -1:]
    token_R = torch.searchsorted(total_RV, threshold_R1, right=True)[:, 0].clamp(max=total_RV.shape[1] - 1)
    return token_R, logp_RV.gather(1, token_R[:, None])[:, 0]
