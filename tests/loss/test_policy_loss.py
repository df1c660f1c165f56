"""The loss of a whole optimizer step: from groups to parameter gradients, in float64 with a real tiny policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from rlvr.advantage import group_advantages, has_signal
from rlvr.batch import MicroBatch, MiniBatch, pack
from rlvr.loss import LossStats, policy_loss
from rlvr.model.policy import Policy
from rlvr.types import Group, LossSpec, LossType, Totals
from support.oracle import Row, entropy_and_gradient, loss_and_gradient
from support.precision import assert_close_where, assert_same_bits

LOSS_TYPES = get_args(LossType)
SHAPES = [(7, [5, 2, 9]), (3, [1, 4, 3]), (1, [6, 1, 8])]
# the middle group teaches nothing; rewards are sums that rounding could part
REWARD_PG = torch.tensor([[1.0, 0.0, 0.5], [0.1 + 0.2] * 3, [-1.0, 2.0, 0.25]], dtype=torch.float64)
SCORABLE_PG = torch.ones(3, 3, dtype=torch.bool)
TEMPERATURE = 0.8
CPU = torch.device("cpu")
WHOLE = 10_000


def make_spec(loss_type: str, **values: Any) -> LossSpec:
    default = LossSpec(
        loss_type=loss_type,  # type: ignore[arg-type]
        epsilon=0.2,
        epsilon_high=1.5 if loss_type == "cispo" else 0.28,
        delta=None,
        beta=0.0,
        kl_unbiased=True,
        importance_correction="off",
        importance_min=None,
        importance_max=3.0,
        entropy_bonus=0.0,
        max_completion_tokens=9,
        temperature=TEMPERATURE,
    )
    return replace(default, **values)


def packed(groups: Sequence[Group], keep_P: Sequence[bool], *, mask_truncated: bool = False) -> MiniBatch:
    advantage_PG = group_advantages(REWARD_PG, scale="group")
    (minibatch,) = pack(groups, advantage_PG, SCORABLE_PG, keep_P, minibatches=1, mask_truncated=mask_truncated)
    return minibatch


def moved(policy: Policy, angle: float) -> Policy:
    """A policy some way off: it stands for the one that sampled, or for the reference."""
    copy = policy.frozen_copy()
    with torch.no_grad():
        for weight in copy.model.parameters():
            weight.add_(0.01 * torch.cos(angle + torch.arange(weight.numel())).reshape(weight.shape))
    return copy


def step(
    policy: Policy, minibatch: MiniBatch, spec: LossSpec, *, budget: int = WHOLE, on_policy: bool = False
) -> tuple[float, dict[str, Tensor], list[LossStats]]:
    """Loss and gradient of the step, accumulated over micro-batches of `budget` tokens."""
    old, reference = moved(policy, 0.0), moved(policy, 2.0)

    def with_others(micro: MicroBatch) -> MicroBatch:
        return replace(
            micro,
            old_logp_T=None if on_policy else old.logprobs(micro, temperature=TEMPERATURE),
            reference_logp_T=reference.logprobs(micro, temperature=TEMPERATURE) if spec.beta else None,
        )

    policy.model.zero_grad(set_to_none=True)
    total, statistics = 0.0, []
    for micro in map(with_others, minibatch.split(budget, CPU)):
        loss, stats = policy_loss(policy.hidden(micro), policy.head, micro, totals=minibatch.totals, spec=spec)
        torch.autograd.backward(loss)
        total += loss.item()
        statistics.append(stats)
    return total, {name: w.grad.clone() for name, w in policy.trainable().items() if w.grad is not None}, statistics


def assert_same(found: tuple[float, dict[str, Tensor], Any], expected: tuple[float, dict[str, Tensor], Any]) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-12)
    assert found[1].keys() == expected[1].keys()
    largest = max(gradient.abs().max().item() for gradient in expected[1].values())
    assert largest > 1e-3
    for name, gradient in expected[1].items():
        assert_close_where(found[1][name], gradient, 1e-11 * max(1.0, largest), case=name)


def plain_logits(model: Any, group: Group, ids: Tensor) -> Tensor:
    tokens = torch.tensor([*group.prompt.tokens, *ids.tolist()])
    logits: Tensor = model(input_ids=tokens[None]).logits[0][len(group.prompt.tokens) - 1 : -1]
    return logits


def plain_logprobs(model: Any, group: Group, ids: Tensor) -> Tensor:
    logp_SV = (plain_logits(model, group, ids) / TEMPERATURE).log_softmax(-1)
    return logp_SV.gather(1, ids[:, None])[:, 0]


def plain_step(
    policy: Policy, plain: Any, groups: Sequence[Group], spec: LossSpec, *, mask_truncated: bool = False
) -> tuple[float, dict[str, Tensor], None]:
    """The same by the oracle: log-probabilities of each row by a plain model, gradient in closed form."""
    advantage_PG = group_advantages(REWARD_PG, scale="group").float().double()
    old, reference = (moved(policy, angle).model for angle in (0.0, 2.0))
    for other in (old, reference):
        other.config._attn_implementation = "sdpa"
    rows, logps = [], []
    for group, advantages in zip(groups, advantage_PG.tolist(), strict=True):
        for completion, advantage in zip(group.completions, advantages, strict=True):
            if mask_truncated and completion.is_truncated:
                continue
            logps.append(plain_logprobs(plain, group, completion.token_ids))
            with torch.no_grad():
                before, base = (plain_logprobs(m, group, completion.token_ids).tolist() for m in (old, reference))
            rows.append(Row(logps[-1].tolist(), before, base, advantage, completion.logp.tolist()))
    num_rows, num_tokens = sum(len(g.completions) for g in groups), sum(len(row.logp) for row in rows)
    value, gradient = loss_and_gradient(rows, spec, num_rows=num_rows, num_tokens=num_tokens)
    torch.autograd.backward((torch.cat(logps) * torch.tensor(gradient, dtype=torch.float64)).sum())
    return value, {name: weight.grad for name, weight in plain.named_parameters()}, None


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_step_is_that_of_plain_models_and_closed_forms(
    loss_type: str,
    beta: float,
    mask_truncated: bool,
    make_policy: Callable[..., Policy],
    make_plain: Callable[..., Any],
    make_groups: Callable[..., list[Group]],
) -> None:
    groups, policy, spec = make_groups(SHAPES), make_policy(), make_spec(loss_type, beta=beta)
    expected = plain_step(policy, make_plain(), groups, spec, mask_truncated=mask_truncated)
    minibatch = packed(groups, [True, bool(beta), True], mask_truncated=mask_truncated)
    assert_same(step(policy, minibatch, spec, budget=20), expected)


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_corrected_step_is_that_of_plain_models_and_closed_forms(
    loss_type: str,
    mode: str,
    make_policy: Callable[..., Policy],
    make_plain: Callable[..., Any],
    make_groups: Callable[..., list[Group]],
) -> None:
    """The engine of these groups is far off: both bounds are met."""
    groups, policy = make_groups(SHAPES), make_policy()
    spec = make_spec(loss_type, beta=0.05, importance_correction=mode, importance_min=1e-3, importance_max=50.0)
    expected = plain_step(policy, make_plain(), groups, spec)
    assert_same(step(policy, packed(groups, [True] * 3), spec, budget=20), expected)


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "gspo"])
def test_the_entropy_bonus_is_its_closed_form(
    loss_type: str,
    mask_truncated: bool,
    make_policy: Callable[..., Policy],
    make_plain: Callable[..., Any],
    make_groups: Callable[..., list[Group]],
) -> None:
    """What the bonus adds to loss and gradient: the same for every loss type, also where there is no advantage."""
    groups, policy, plain, bonus = make_groups(SHAPES), make_policy(), make_plain(), 0.3
    minibatch = packed(groups, [True] * 3, mask_truncated=mask_truncated)
    without, with_bonus = (
        step(policy, minibatch, make_spec(loss_type, entropy_bonus=value), budget=20) for value in (0.0, bonus)
    )
    completions = [(g, c) for g in groups for c in g.completions if not (mask_truncated and c.is_truncated)]
    num_tokens = sum(len(c.token_ids) for _, c in completions)
    total = 0.0
    for group, completion in completions:
        logits_TV = plain_logits(plain, group, completion.token_ids)
        closed = [entropy_and_gradient(row, TEMPERATURE) for row in logits_TV.tolist()]
        total += sum(entropy for entropy, _ in closed)
        torch.autograd.backward(
            logits_TV, torch.tensor([d for _, d in closed], dtype=torch.float64) * -bonus / num_tokens
        )
    added = {name: gradient - without[1][name] for name, gradient in with_bonus[1].items()}
    expected = {name: weight.grad for name, weight in plain.named_parameters()}
    assert_same((with_bonus[0] - without[0], added, None), (-bonus * total / num_tokens, expected, None))


@pytest.mark.parametrize("mode", ["off", "sequence_truncate"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_micro_batches_change_nothing(
    loss_type: str, mode: str, make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    policy = make_policy("qwen3")
    spec = make_spec(loss_type, beta=0.05, importance_correction=mode, entropy_bonus=0.0 if mode == "off" else 0.1)
    minibatch = packed(make_groups(SHAPES), [True] * 3)
    whole = step(policy, minibatch, spec)
    counts = set()
    for budget in (30, 16, 1):
        counts.add(len(minibatch.split(budget, CPU)))
        assert_same(step(policy, minibatch, spec, budget=budget), whole)
    assert len(counts) == 3 and min(counts) > 1


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_skipping_groups_without_signal_changes_no_gradient(
    loss_type: str, mask_truncated: bool, make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    groups, policy, spec = make_groups(SHAPES), make_policy(), make_spec(loss_type)
    keep_P = has_signal(group_advantages(REWARD_PG, scale="group")).tolist()
    assert keep_P == [True, False, True]
    everything = packed(groups, [True] * 3, mask_truncated=mask_truncated)
    skipped = packed(groups, keep_P, mask_truncated=mask_truncated)
    assert len(skipped.rows) == len(everything.rows) - 3
    assert skipped.totals == everything.totals
    assert_same(step(policy, skipped, spec), step(policy, everything, spec))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_order_of_siblings_does_not_matter(
    loss_type: str, make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    groups, policy, spec = make_groups(SHAPES), make_policy(), make_spec(loss_type, beta=0.05)
    turned = [replace(group, completions=group.completions[::-1]) for group in groups]
    advantage_PG = group_advantages(REWARD_PG.flip(1), scale="group")
    (minibatch,) = pack(turned, advantage_PG, SCORABLE_PG, [True] * 3, minibatches=1, mask_truncated=False)
    assert_same(step(policy, minibatch, spec), step(policy, packed(groups, [True] * 3), spec))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_an_offset_of_the_rewards_does_not_matter(
    loss_type: str, make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    groups, policy, spec = make_groups(SHAPES), make_policy(), make_spec(loss_type)
    offset_P1 = torch.tensor([[4.0], [-2.0], [0.5]])
    advantage_PG = group_advantages(REWARD_PG + offset_P1, scale="group")
    (minibatch,) = pack(groups, advantage_PG, SCORABLE_PG, [True] * 3, minibatches=1, mask_truncated=False)
    assert_same(step(policy, minibatch, spec), step(policy, packed(groups, [True] * 3), spec))


def test_without_old_log_probabilities_the_ratio_is_one(
    make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    """The value of grpo is then minus the mean advantage: 0 here, since advantages sum to 0 in a group."""
    policy, minibatch = make_policy(), packed(make_groups(SHAPES), [True] * 3)
    loss, gradient, (stats,) = step(policy, minibatch, make_spec("grpo"), on_policy=True)
    sums = dict(zip(LossStats.NAMES, stats.sums.tolist(), strict=True))
    assert abs(loss) < 1e-7  # the advantages are float32
    assert max(g.abs().max() for g in gradient.values()) > 1e-3
    assert sums["clip_low"] == sums["clip_high"] == sums["kl"] == 0.0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_statistics_are_sums_over_the_trained_tokens(
    loss_type: str, make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    epsilon, high = 0.05, 0.08
    absolute = 1 if loss_type == "cispo" else 0
    policy = make_policy()
    spec = make_spec(loss_type, beta=0.05, epsilon=epsilon, epsilon_high=absolute + high)
    advantage_PG = -group_advantages(REWARD_PG, scale="group")  # so that whole rows lie below the clip as well
    (minibatch,) = pack(make_groups(SHAPES), advantage_PG, SCORABLE_PG, [True] * 3, minibatches=1, mask_truncated=False)
    (micro,) = minibatch.split(WHOLE, CPU)
    _, _, (stats,) = step(policy, minibatch, spec)
    logp_T, old_T, reference_T = (
        p.logprobs(micro, temperature=TEMPERATURE) for p in (policy, moved(policy, 0.0), moved(policy, 2.0))
    )
    with torch.no_grad():
        p_TV = (policy.hidden(micro) @ policy.head.T / TEMPERATURE).softmax(-1)
    log_ratio_T, difference_T = logp_T - old_T, reference_T - logp_T
    if loss_type == "gspo":
        of_row = [log_ratio_T[micro.row_T == row].mean() for row in range(9)]
        log_ratio_T = torch.stack([of_row[row] for row in micro.row_T.tolist()])
    ratio_T = log_ratio_T.exp()
    clips_low, clips_high = loss_type not in ("cispo", "sapo"), loss_type != "sapo"
    gap_T = (old_T - micro.sampler_logp_T).abs()
    expected = {
        "tokens": 39,
        "entropy": -(p_TV * p_TV.log()).sum().item(),
        "clip_low": clips_low * int(((ratio_T < 1 - epsilon) & (micro.advantage_T < 0)).sum()),
        "clip_high": clips_high * int(((ratio_T > 1 + high) & (micro.advantage_T > 0)).sum()),
        "kl": (difference_T.exp() - difference_T - 1).sum().item(),
        "logp_gap": gap_T.sum().item(),
        "dropped_tokens": 0,
        "rows": 9,
        "dropped_rows": 0,
    }
    assert (expected["clip_low"] > 0) == clips_low and (expected["clip_high"] > 0) == clips_high
    assert dict(zip(LossStats.NAMES, stats.sums.tolist(), strict=True)) == pytest.approx(expected, rel=1e-12)
    assert stats.logp_gap_max.item() == pytest.approx(gap_T.max().item(), rel=1e-12)
    assert_same_bits(stats.logp_T, logp_T)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_statistics_count_what_the_correction_drops(
    mode: str, make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    """The engine was off by a factor of 2 in row 0, of 10 in the first token of row 1 and in a row of one."""
    policy = make_policy()
    (micro,) = packed(make_groups(SHAPES), [True] * 3).split(WHOLE, CPU)
    old_T = policy.logprobs(micro, temperature=TEMPERATURE)
    lengths = torch.bincount(micro.row_T).tolist()
    first_R = [sum(lengths[:row]) for row in range(9)]
    short = lengths.index(1)
    factor_T = torch.ones(39, dtype=torch.float64)
    factor_T[micro.row_T == 0] = 2.0
    factor_T[[first_R[1], first_R[short]]] = 10.0
    micro = replace(micro, sampler_logp_T=old_T - factor_T.log())
    spec = make_spec("grpo", importance_correction=mode)
    _, stats = policy_loss(policy.hidden(micro), policy.head, micro, totals=Totals(9, 39), spec=spec)
    sums = dict(zip(LossStats.NAMES, stats.sums.tolist(), strict=True))
    expected = {
        "token_mask": (2, 1),
        "sequence_mask": (lengths[0] + lengths[1] + 1, 3),
    }.get(mode, (0, 0))
    assert (sums["dropped_tokens"], sums["dropped_rows"]) == expected
    assert sums["rows"] == 9
