"""The sampler against transformers' generate, the trainer's log-probabilities, and the softmax it should follow."""

from __future__ import annotations

import gc
import math
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.batch import pack
from rlvr.model.policy import Policy
from rlvr.sampler import NativeSampler, Sampling
from rlvr.sampler.native import GroupCache
from rlvr.types import Completion, Group, Prompt
from support.precision import assert_same_bits

CPU = torch.device("cpu")
LENGTHS = (9, 1, 4, 14)  # ragged prompts, one of a single token
LIMIT = 24
END = (1, 20, 21)  # ids that end a completion in these tests
ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "qwen3"])


@pytest.fixture
def make_sampler(make_policy: Callable[..., Policy], tokenizer: Any) -> Callable[..., NativeSampler]:
    def make(
        architecture: str = "llama",
        *,
        temperature: float = 1.0,
        limit: int = LIMIT,
        max_rows: int = 1000,
        dtype: torch.dtype = torch.float64,
        ends: tuple[int, ...] = END,
        opening: str = "",
    ) -> NativeSampler:
        sampler = NativeSampler(tokenizer, opening, Sampling(temperature, limit, max_rows))
        sampler.sync(replace(make_policy(architecture, dtype=dtype), eos_ids=ends))
        return sampler

    return make


def tokens(groups: Sequence[Group]) -> dict[str, list[list[int]]]:
    return {g.prompt.problem.id: [c.token_ids.tolist() for c in g.completions] for g in groups}


def completions(groups: Sequence[Group]) -> list[Completion]:
    return [completion for group in groups for completion in group.completions]


def test_the_keys_of_a_rollout_end_with_it() -> None:
    cache = GroupCache([3, 2], 4, torch.device("cpu"))
    k_SNE = torch.zeros(5, 2, 8)
    cache.attend(0, torch.zeros(5, 4, 8), k_SNE, k_SNE, 1.0)
    cache.start(per_prompt=2)
    cache.attend(0, torch.zeros(4, 4, 8), k_SNE[:4], k_SNE[:4], 1.0)
    keys = weakref.ref(cache.keys[0])
    gc.disable()  # nothing may wait for it
    try:
        del cache
        assert keys() is None
    finally:
        gc.enable()


@ARCHITECTURES
def test_greedy_is_that_of_generate(
    architecture: str,
    make_sampler: Callable[..., NativeSampler],
    make_plain: Callable[..., Any],
    make_prompts: Callable[..., list[Prompt]],
) -> None:
    prompts, plain = make_prompts(*LENGTHS, 3, 6, 2, 5), make_plain(architecture)
    groups = make_sampler(architecture, temperature=0.0, ends=tuple(range(1, 8))).sample(prompts, 1, seed=(0,))
    lengths = set()
    for prompt, group in zip(prompts, groups, strict=True):
        given = torch.tensor([prompt.tokens])
        expected = plain.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=LIMIT,
            eos_token_id=list(range(1, 8)),
        )[0, len(prompt.tokens) :]
        assert group.prompt is prompt
        assert group.completions[0].token_ids.tolist() == expected.tolist()
        lengths.add(len(expected))
    assert len(lengths) > 2  # some end early


@ARCHITECTURES
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_the_trainers(
    architecture: str, temperature: float, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
) -> None:
    sampler = make_sampler(architecture, temperature=temperature, dtype=torch.float32)
    groups = list(sampler.sample(make_prompts(*LENGTHS), 6, seed=(3, 1)))
    (minibatch,) = pack(
        groups, torch.zeros(4, 6), torch.ones(4, 6, dtype=torch.bool), [True] * 4, minibatches=1, mask_truncated=False
    )
    assert sampler.policy is not None
    for micro in minibatch.split(1000, CPU):
        trainer_T = sampler.policy.logprobs(micro, temperature=temperature)
        assert (trainer_T - micro.sampler_logp_T).abs().max() <= 1e-5


class TestSeeds:
    def test_the_same_seed_gives_the_same_tokens(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
    ) -> None:
        prompts = make_prompts(*LENGTHS)
        first, again = (list(make_sampler().sample(prompts, 5, seed=(1, 2))) for _ in range(2))
        assert tokens(first) == tokens(again)
        for a, b in zip(completions(first), completions(again), strict=True):
            assert_same_bits(a.logp, b.logp)

    def test_the_global_random_state_is_neither_read_nor_changed(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
    ) -> None:
        sampler, prompts = make_sampler(), make_prompts(*LENGTHS)
        torch.manual_seed(1)
        first, state = list(sampler.sample(prompts, 5, seed=(1, 2))), torch.get_rng_state()
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        assert tokens(list(sampler.sample(prompts, 5, seed=(1, 2)))) == tokens(first)

    def test_another_seed_gives_other_tokens(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
    ) -> None:
        sampler, prompts = make_sampler(), make_prompts(*LENGTHS)
        base = tokens(list(sampler.sample(prompts, 5, seed=(1, 2))))
        for seed in ((1, 3), (2, 2), (2, 1)):
            other = tokens(list(sampler.sample(prompts, 5, seed=seed)))
            assert all(other[name] != base[name] for name in base)

    def test_siblings_differ(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
    ) -> None:
        for rows in tokens(list(make_sampler(ends=()).sample(make_prompts(*LENGTHS), 5, seed=(0,)))).values():
            assert len(set(map(tuple, rows))) == 5

    def test_problems_draw_numbers_of_their_own_even_behind_one_prompt(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., list[Prompt]]
    ) -> None:
        (prompt,) = make_prompts(6)
        twin = replace(prompt, problem=replace(prompt.problem, id="twin"))
        found = tokens(list(make_sampler().sample([prompt, twin], 5, seed=(0,))))
        assert found["p0"] != found["twin"]

    @ARCHITECTURES
    @pytest.mark.parametrize("max_rows", [1, 5, 10, 17])
    def test_how_many_rows_run_at_once_does_not_matter(
        self,
        architecture: str,
        max_rows: int,
        make_sampler: Callable[..., NativeSampler],
        make_prompts: Callable[..., Any],
    ) -> None:
        prompts = make_prompts(*LENGTHS)
        together, apart = (
            list(make_sampler(architecture, max_rows=n).sample(prompts, 5, seed=(4,))) for n in (1000, max_rows)
        )
        assert tokens(together) == tokens(apart)

    def test_other_prompts_beside_it_do_not_matter(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
    ) -> None:
        sampler, prompts = make_sampler(), make_prompts(*LENGTHS)
        everything = tokens(list(sampler.sample(prompts, 5, seed=(4,))))
        for chosen in (prompts[:1], prompts[2:], prompts[::-1]):
            found = tokens(list(sampler.sample(chosen, 5, seed=(4,))))
            assert found == {name: everything[name] for name in found}


class TestEnds:
    def test_every_declared_id_stops_and_belongs_to_the_completion(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
    ) -> None:
        groups = list(make_sampler().sample(make_prompts(*LENGTHS), 30, seed=(0,)))
        last = Counter(c.token_ids[-1].item() for c in completions(groups) if not c.is_truncated)
        assert set(last) == set(END)
        assert not any(token in END for c in completions(groups) for token in c.token_ids[:-1].tolist())

    def test_truncated_is_what_met_the_limit_without_an_end(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
    ) -> None:
        groups = list(make_sampler(limit=6).sample(make_prompts(*LENGTHS), 60, seed=(0,)))
        kinds: Counter[tuple[bool, bool]] = Counter()
        for c in completions(groups):
            ended = c.token_ids[-1].item() in END
            assert c.is_truncated == (not ended)
            assert len(c.logp) == len(c.token_ids) <= 6
            assert ended or len(c.token_ids) == 6
            kinds[ended, len(c.token_ids) == 6] += 1
        assert min(kinds[True, True], kinds[True, False], kinds[False, True]) > 0  # an end in the last place too

    @pytest.mark.parametrize("opening", ["", "<start_working_out>"])
    def test_the_text_has_the_opening_and_no_end_of_sequence(
        self,
        opening: str,
        tokenizer: Any,
        make_sampler: Callable[..., NativeSampler],
        make_prompts: Callable[..., Any],
    ) -> None:
        groups = list(make_sampler(limit=8, opening=opening).sample(make_prompts(*LENGTHS), 20, seed=(0,)))
        for c in completions(groups):
            ids = c.token_ids.tolist() if c.is_truncated else c.token_ids.tolist()[:-1]
            assert c.text == opening + "".join(tokenizer.convert_ids_to_tokens(ids))
        assert {c.is_truncated for c in completions(groups)} == {True, False}

    def test_an_end_as_the_first_token_leaves_no_text(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any], tokenizer: Any
    ) -> None:
        (group,) = make_sampler(ends=tuple(range(len(tokenizer)))).sample(make_prompts(3), 4, seed=(0,))
        assert [(len(c.token_ids), c.text, c.is_truncated) for c in group.completions] == [(1, "", False)] * 4


class TestFinishedRowsLeave:
    """Rows that have ended are dropped from the cache; what is left must not notice."""

    @ARCHITECTURES
    @pytest.mark.parametrize("lengths", [LENGTHS, (5, 5, 5)])
    def test_same_tokens_and_log_probabilities_as_without_dropping(
        self,
        architecture: str,
        lengths: tuple[int, ...],
        make_sampler: Callable[..., NativeSampler],
        make_prompts: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        prompts, sampler = make_prompts(*lengths), make_sampler(architecture, limit=40)
        dropping = list(sampler.sample(prompts, 12, seed=(8,)))
        monkeypatch.setattr("rlvr.sampler.native.COMPACT_BELOW", 0.0)
        keeping = list(sampler.sample(prompts, 12, seed=(8,)))
        numbers = sorted(len(c.token_ids) for c in completions(dropping))
        assert numbers[0] <= 3 and numbers[-1] >= 30  # very different lengths
        assert tokens(dropping) == tokens(keeping)
        for a, b in zip(completions(dropping), completions(keeping), strict=True):
            torch.testing.assert_close(a.logp, b.logp, rtol=0, atol=1e-6)


class TestDistribution:
    """4,000 completions of one prompt against the softmax of a plain model."""

    COUNT = 4000
    # chi-square with 30 degrees of freedom exceeds 60 with probability 0.0009; the seed is fixed, so it does not flake
    LIMIT = 60.0

    @staticmethod
    def chi_square(samples: list[int], p_V: Tensor) -> float:
        """Cells of fewer than five expected samples are taken together."""
        expected_V = p_V * len(samples)
        observed_V = torch.bincount(torch.tensor(samples), minlength=len(p_V)).double()
        rare = expected_V < 5
        observed, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (observed_V, expected_V))
        return ((observed - expected).square() / expected.clamp(min=1e-9)).sum().item()

    @pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
    def test_first_and_second_token_follow_the_softmax_at_the_temperature(
        self,
        temperature: float,
        make_sampler: Callable[..., NativeSampler],
        make_plain: Callable[..., Any],
        make_prompts: Callable[..., list[Prompt]],
    ) -> None:
        (prompt,) = make_prompts(6)
        (group,) = list(make_sampler(temperature=temperature, limit=2, ends=()).sample([prompt], self.COUNT, seed=(5,)))
        pairs = [c.token_ids.tolist() for c in group.completions]
        plain = make_plain()
        size = plain.config.vocab_size
        with torch.no_grad():
            continued = torch.tensor([[*prompt.tokens, v] for v in range(size)])
            logits = plain(input_ids=continued).logits / temperature
        first_V, second_VV = logits[0, -2].softmax(-1), logits[:, -1].softmax(-1)
        assert self.chi_square([a for a, _ in pairs], first_V) < self.LIMIT
        assert self.chi_square([b for _, b in pairs], first_V @ second_VV) < self.LIMIT
        likeliest = Counter(a for a, _ in pairs).most_common(1)[0][0]
        after = [b for a, b in pairs if a == likeliest]
        assert len(after) > 100 and self.chi_square(after, second_VV[likeliest]) < self.LIMIT
        # the test tells temperatures apart
        assert self.chi_square([a for a, _ in pairs], (logits[0, -2] * 1.3).softmax(-1)) > self.LIMIT

    def test_log_probabilities_are_those_of_the_tokens_drawn(
        self, make_sampler: Callable[..., NativeSampler], make_prompts: Callable[..., Any]
    ) -> None:
        """The likeliest tokens come up as often as their log-probabilities say."""
        (group,) = list(make_sampler(temperature=2.0, limit=1, ends=()).sample(make_prompts(6), self.COUNT, seed=(6,)))
        counts = Counter(c.token_ids.item() for c in group.completions)
        shares = {c.token_ids.item(): math.exp(c.logp.item()) for c in group.completions}
        for token, count in counts.most_common(5):
            assert count / self.COUNT == pytest.approx(shares[token], abs=4 * math.sqrt(shares[token] / self.COUNT))


def test_the_policy_synced_last_is_sampled(
    make_sampler: Callable[..., NativeSampler], make_policy: Callable[..., Policy], make_prompts: Callable[..., Any]
) -> None:
    sampler, prompts = make_sampler(temperature=0.0), make_prompts(*LENGTHS)
    before = tokens(list(sampler.sample(prompts, 1, seed=(0,))))
    other = replace(make_policy(), eos_ids=END)
    with torch.no_grad():
        for weight in other.trainable().values():
            weight.mul_(0.5)
    sampler.sync(other)
    assert tokens(list(sampler.sample(prompts, 1, seed=(0,)))) != before


def test_an_adapter_takes_part(
    make_policy: Callable[..., Policy], make_prompts: Callable[..., Any], tokenizer: Any
) -> None:
    prompts = make_prompts(*LENGTHS)
    found = []
    for adapter in ("none", "lora"):
        sampler = NativeSampler(tokenizer, "", Sampling(0.0, LIMIT, 100))
        sampler.sync(make_policy(adapter=adapter))
        found.append(tokens(list(sampler.sample(prompts, 1, seed=(0,)))))
    assert found[0] != found[1]
