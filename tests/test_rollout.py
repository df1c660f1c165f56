"""The rollout of a step: groups without signal are replaced, deterministically, up to the cap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from rlvr.chat import tags_of
from rlvr.config import Config
from rlvr.problems.draw import draw, spare
from rlvr.rewards import FUNCTIONS, open_scorer
from rlvr.rewards.sample import Sample
from rlvr.rollout import Rollout, check_scores, collect
from rlvr.runtime.meter import Meter
from rlvr.types import AdvantageMethod, Completion, Group, Prompt, StepFailed

STEP, SEED = 3, 0


class Stub:
    """A sampler whose completions say which of their prompt they are; it notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def sync(self, policy: Any) -> None:
        raise AssertionError("the loop does that")

    def base_tensors(self) -> None: ...

    def resume(self) -> None: ...

    def at(self, temperature: float) -> Stub:
        raise AssertionError("the rollout has one temperature")

    def release(self) -> None: ...

    def close(self) -> None: ...

    def sample(
        self, prompts: Sequence[Prompt], completions_per_prompt: int, *, seed: tuple[int, ...]
    ) -> Iterator[Group]:
        assert seed == (SEED, STEP)
        self.asked.append([prompt.problem.id for prompt in prompts])
        for prompt in prompts:
            completions = (
                Completion(torch.tensor([g]), torch.zeros(1), str(g), False) for g in range(completions_per_prompt)
            )
            yield Group(prompt, tuple(completions))


@pytest.fixture
def prompts(make_prompts: Callable[..., list[Prompt]]) -> list[Prompt]:
    return make_prompts(*[3] * 20)


@pytest.fixture
def run(
    make_config: Callable[..., Config], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Rollout, Stub]]:
    """collect() where only the completions of the prompts `good` differ in worth."""

    def go(good: set[str], rounds: int, method: AdvantageMethod = "sum_then_normalize") -> tuple[Rollout, Stub]:
        def differs(sample: Sample) -> float:
            name = sample.problem.id
            return float(sample.completion.text) + int(name[1:]) if name in good else 1.0

        monkeypatch.setitem(FUNCTIONS, "differs", differs)
        changes = {
            "rewards": {"differs": {"weight": 1.0, "options": {}}},
            "grpo.prompts_per_step": 4,
            "grpo.completions_per_prompt": 3,
            "grpo.dynamic_sampling": rounds,
            "grpo.advantage": method,
            "compute.seed": SEED,
        }
        stub = Stub()
        cfg = make_config(changes)
        with open_scorer(cfg.rewards, cfg.verifiers, tags_of(cfg.model.template)) as scorer:
            found = collect(cfg, stub, scorer, prompts, step=STEP, meter=Meter(torch.device("cpu")))
        return found, stub

    return go


def ids(items: Sequence[Prompt]) -> list[str]:
    return [prompt.problem.id for prompt in items]


def own_and_spare(prompts: list[Prompt]) -> tuple[list[str], list[str]]:
    drawn = {"count": 4, "step": STEP, "seed": SEED}
    return ids(draw(prompts, **drawn)), ids(list(spare(prompts, **drawn)))


def test_without_rounds_the_step_is_what_was_drawn(run: Callable[..., Any], prompts: list[Prompt]) -> None:
    own, _ = own_and_spare(prompts)
    rollout, stub = run(set(), 0)
    assert stub.asked == [own]
    assert not rollout.signal_P.any() and rollout.num_resampled == 0


@pytest.mark.parametrize("method", ["sum_then_normalize", "normalize_then_sum", "rloo"])
def test_groups_without_signal_are_replaced_in_place(
    method: str, run: Callable[..., Any], prompts: list[Prompt]
) -> None:
    """Own prompts 0 and 2 teach; of the first two spare ones the second, of the next one the first."""
    own, others = own_and_spare(prompts)
    good = {own[0], own[2], others[1], others[2]}
    rollout, stub = run(good, 5, method)
    assert stub.asked == [own, others[:2], others[2:3]]
    assert ids([group.prompt for group in rollout.groups]) == [own[0], others[1], own[2], others[2]]
    assert rollout.signal_P.all() and rollout.num_resampled == 2
    for p, group in enumerate(rollout.groups):
        number = int(group.prompt.problem.id[1:])
        assert rollout.scores.points[p] == [[number + 0.0], [number + 1.0], [number + 2.0]]
        assert rollout.reward_PG[p].tolist() == [number + 0.0, number + 1.0, number + 2.0]
    assert rollout.scores.correct == [[False] * 3] * 4


def test_replaced_groups_still_count(
    make_config: Callable[..., Config], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own prompts 0 and 1 cannot be scored; the spare ones that take their places can."""
    own, _ = own_and_spare(prompts)

    def fails(sample: Sample) -> float:
        return math.nan if sample.problem.id in own[:2] else float(sample.completion.text)

    monkeypatch.setitem(FUNCTIONS, "fails", fails)
    rewards = {"fails": {"weight": 1.0, "options": {}}}
    changes = {"rewards": rewards, "grpo.prompts_per_step": 4, "grpo.completions_per_prompt": 3, "compute.seed": SEED}
    cfg = make_config(changes | {"grpo.dynamic_sampling": 1})
    with open_scorer(cfg.rewards, cfg.verifiers, tags_of(cfg.model.template)) as scorer:
        rollout = collect(cfg, Stub(), scorer, prompts, step=STEP, meter=Meter(torch.device("cpu")))
    assert rollout.num_resampled == 2 and not rollout.reward_PG.isnan().any()
    assert (rollout.num_unscorable, len(rollout.sampled_verdicts)) == (6, 18)
    assert rollout.unscorable == pytest.approx(1 / 3)
    with pytest.raises(StepFailed, match="6 of the 18 completions could not be scored"):
        check_scores(rollout, limit=0.3)


def test_the_cap_holds_and_the_step_trains_on_what_there_is(run: Callable[..., Any], prompts: list[Prompt]) -> None:
    own, others = own_and_spare(prompts)
    rollout, stub = run({own[1], others[5], others[8]}, 2)
    assert stub.asked == [own, others[:3], others[3:6]]
    assert ids([group.prompt for group in rollout.groups]) == [others[5], *own[1:]]
    assert rollout.signal_P.tolist() == [True, True, False, False] and rollout.num_resampled == 1


def test_it_ends_when_no_prompt_is_left(run: Callable[..., Any], prompts: list[Prompt]) -> None:
    own, others = own_and_spare(prompts)
    rollout, stub = run(set(), 1000)
    assert stub.asked == [own, others[:4], others[4:8], others[8:12], others[12:16]]
    assert ids([group.prompt for group in rollout.groups]) == own


def test_a_full_step_asks_for_no_more(run: Callable[..., Any], prompts: list[Prompt]) -> None:
    own, _ = own_and_spare(prompts)
    rollout, stub = run(set(own), 3)
    assert stub.asked == [own] and rollout.num_resampled == 0
