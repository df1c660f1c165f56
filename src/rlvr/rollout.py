"""A step's completions and what they are worth: sample, score, and replace the groups that teach nothing."""
# P prompts · G completions per prompt

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from torch import Tensor

from rlvr.advantage import advantages, has_signal, reward_tensors, total_rewards
from rlvr.config import Config
from rlvr.problems.draw import draw_distinct, spare
from rlvr.rewards import Scorer, Scores
from rlvr.runtime.meter import Meter
from rlvr.sampler import Sampler, places
from rlvr.types import Group, Prompt, StepFailed
from rlvr.verifiers import Verdict

T = TypeVar("T")


@dataclass(frozen=True)
class Rollout:
    """The groups of a step with their scores. `num_resampled` of them replaced a group without signal.

    `sampled_verdicts` and `num_unscorable` are of all completions that were sampled for the step, those of replaced
    groups included: choosing groups must neither hide failures nor bend the accuracy.
    """

    groups: list[Group]
    scores: Scores
    reward_PG: Tensor
    advantage_PG: Tensor
    signal_P: Tensor
    num_resampled: int
    sampled_verdicts: tuple[Verdict, ...]
    num_unscorable: int

    @property
    def unscorable(self) -> float:
        """The share of the sampled completions that could not be scored because scoring failed."""
        return self.num_unscorable / len(self.sampled_verdicts)


def collect(
    cfg: Config, sampler: Sampler, scorer: Scorer, prompts: Sequence[Prompt], *, step: int, meter: Meter
) -> Rollout:
    """The rollout of `step`: a function of its number, the seed and the sampler's weights.

    For up to `grpo.dynamic_sampling` rounds, other prompts are sampled, one for each group without signal, and those
    of them that have one take the places of such groups (DAPO, 2503.14476, section 3.2). When the rounds are over or
    no prompt is left, the step trains on what there is.
    """
    drawn = {"count": cfg.grpo.prompts_per_step, "step": step, "seed": cfg.compute.seed}
    rollout = _sample(cfg, sampler, scorer, draw_distinct(prompts, **drawn), step, meter)
    others = spare(prompts, **drawn)
    for _ in range(cfg.grpo.dynamic_sampling):
        empty = [p for p, has_one in enumerate(rollout.signal_P.tolist()) if not has_one]
        batch = list(islice(others, len(empty)))
        if not batch:
            break
        more = _sample(cfg, sampler, scorer, batch, step, meter)
        useful = [p for p, has_one in enumerate(more.signal_P.tolist()) if has_one]
        rollout = _replaced(cfg, rollout, more, dict(zip(empty, useful, strict=False)))
    return rollout


def check_scores(rollout: Rollout, *, limit: float) -> None:
    """Raises StepFailed when the rewards failed for more than the share `limit` of the completions."""
    if rollout.unscorable <= limit:
        return
    count = len(rollout.sampled_verdicts)
    raise StepFailed(
        "\n".join(
            [
                f"{rollout.num_unscorable} of the {count} completions could not be scored, more than "
                f"grpo.max_unscorable allows ({limit:g} of a step), because scoring failed:",
                *(f"  {message}" for message in rollout.scores.messages[:5]),
            ]
        )
    )


def _sample(cfg: Config, sampler: Sampler, scorer: Scorer, batch: Sequence[Prompt], step: int, meter: Meter) -> Rollout:
    """Groups are scored as they come, while the next are sampled; `score` is the time that is then left."""
    groups = []
    with meter.phase("rollout"):
        for group in sampler.sample(batch, cfg.grpo.completions_per_prompt, seed=(cfg.compute.seed, step)):
            scorer.submit(group.prompt.problem, [completion.answered() for completion in group.completions])
            groups.append(group)
    with meter.phase("score"):
        order, scores = places(groups, batch), scorer.finish()
        points, verdicts = [scores.points[g] for g in order], [scores.verdicts[g] for g in order]
        scores = replace(scores, points=points, verdicts=verdicts)
        sampled = _worth(cfg, [groups[g] for g in order], scores)
        return replace(
            sampled,
            sampled_verdicts=tuple(verdict for group in verdicts for verdict in group),
            num_unscorable=int(sampled.reward_PG.isnan().sum()),
        )


def _worth(cfg: Config, groups: list[Group], scores: Scores) -> Rollout:
    """The groups with their advantages; nothing is counted yet."""
    points_PGK, applies_PGK = reward_tensors(scores.points)
    advantage_PG = advantages(
        points_PGK, applies_PGK, scores.weights, method=cfg.grpo.advantage, scale=cfg.grpo.scale_rewards
    )
    reward_PG = total_rewards(points_PGK, scores.weights)
    return Rollout(groups, scores, reward_PG, advantage_PG, has_signal(advantage_PG), 0, (), 0)


def _replaced(cfg: Config, old: Rollout, new: Rollout, places: dict[int, int]) -> Rollout:
    """`old` with group number p replaced by number places[p] of `new`; the counts are of both."""

    def merge(own: list[T], others: list[T]) -> list[T]:
        return [others[places[p]] if p in places else value for p, value in enumerate(own)]

    scores = Scores(
        old.scores.names,
        old.scores.weights,
        merge(old.scores.points, new.scores.points),
        merge(old.scores.verdicts, new.scores.verdicts),
        tuple(dict.fromkeys([*old.scores.messages, *new.scores.messages])),
    )
    return replace(
        _worth(cfg, merge(old.groups, new.groups), scores),
        num_resampled=old.num_resampled + len(places),
        sampled_verdicts=old.sampled_verdicts + new.sampled_verdicts,
        num_unscorable=old.num_unscorable + new.num_unscorable,
    )
