"""GRPO: sample groups, score them, improve the policy. The loop, and nothing else."""
# P prompts

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlvr.batch import MicroBatch, MiniBatch, pack
from rlvr.config import Config
from rlvr.loss import LossStats, policy_loss
from rlvr.model.policy import Policy, in_turn
from rlvr.model.resolved import ResolvedTraining
from rlvr.problems.draw import num_steps
from rlvr.rewards import Scorer
from rlvr.rollout import check_scores, collect
from rlvr.runtime.messages import warn
from rlvr.runtime.meter import Meter
from rlvr.runtime.progress import Show
from rlvr.sampler import Sampler
from rlvr.training.log import completion_table, step_record
from rlvr.training.mismatch import check
from rlvr.training.optim import Optimizer
from rlvr.training.run import Run, check_completions, check_log
from rlvr.types import Interrupted, LossSpec, Prompt, clip_high

MESSAGES = 3  # of what went wrong in scoring, printed for each step


def train(
    cfg: Config,
    resolved: ResolvedTraining,
    policy: Policy,
    sampler: Sampler,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    *,
    run: Run,
    meter: Meter,
    show: Show,
    stop: Callable[[], bool],
) -> None:
    """Run GRPO from where `run` stands to its last step.

    After a checkpoint it raises Interrupted when `stop()`, and StepFailed when a step failed: in the engine, in a
    reward, for memory or disk, by a gradient that is no number, when more than `grpo.max_unscorable` of its completions
    could not be scored, or when sampler and policy are further apart than `rollout.max_logp_gap`. The state before
    it is saved, and a next run begins with that step. The last step leaves a checkpoint, too: what comes after it may
    fail.
    """
    reference = policy.frozen_copy() if cfg.grpo.beta else None  # before restore: the policy as GRPO starts
    steps = num_steps(cfg.grpo, len(prompts))
    optimizer = make_optimizer(cfg, resolved, policy, steps)
    updates = cfg.grpo.minibatches_per_rollout * cfg.grpo.passes_per_rollout
    start, notes = run.restore(policy, optimizer)
    notes = {"completions": {}, **notes}
    check_log(run, start)
    check_completions(run, notes["completions"])
    for step in range(start, steps):
        meter.begin_step()
        learning_rate = optimizer.rate()
        with run.training(step, policy, optimizer, notes, updates=updates):
            with meter.phase("rollout"):
                sampler.resume()
                sampler.sync(policy)
            rollout = collect(cfg, sampler, scorer, prompts, step=step, meter=meter)
            sampler.release()
            for message in rollout.scores.messages[:MESSAGES]:
                warn(f"step {step + 1}: {message}")
            check_scores(rollout, limit=cfg.grpo.max_unscorable)
            pulls_all = reference is not None or cfg.grpo.entropy_bonus > 0.0  # a gradient without an advantage
            keep_P = [bool(signal) or pulls_all for signal in rollout.signal_P]
            with meter.phase("update"):
                minibatches = pack(
                    rollout.groups, rollout.advantage_PG, ~rollout.reward_PG.isnan(), keep_P,
                    minibatches=cfg.grpo.minibatches_per_rollout, mask_truncated=cfg.grpo.mask_truncated_completions,
                )  # fmt: skip
                losses, stats, grad_norm = update(cfg, resolved, policy, reference, optimizer, minibatches, meter)
            record = step_record(step, rollout, keep_P, losses, stats, meter)
            run.append_log(record | {"grad_norm": grad_norm, "learning_rate": learning_rate} | optimizer.record())
            is_last, asked_to_stop = step + 1 == steps, stop()
            if step % cfg.grpo.log_completions_every == 0 or is_last:
                written = run.write_completions(step, completion_table(step, rollout))
                notes = {"completions": notes["completions"] | written}
            if (step + 1) % cfg.grpo.checkpoint_every == 0 or is_last or asked_to_stop:
                run.save(step + 1, policy, optimizer, notes)
        show(step + 1, reward=record["reward/mean"], accuracy=record["accuracy"],
             length=record["completion/mean_length"], **{"tokens/s": record["tokens/second"]})  # fmt: skip
        if asked_to_stop:
            raise Interrupted(f"stopped after step {step + 1} of {steps}")


def update(
    cfg: Config,
    resolved: ResolvedTraining,
    policy: Policy,
    reference: Policy | None,
    optimizer: Optimizer,
    minibatches: Sequence[MiniBatch],
    meter: Meter,
) -> tuple[list[float], list[LossStats], float | None]:
    """Every pass over every minibatch: one optimizer step each. Losses by step, statistics, last gradient norm.

    Raises Mismatch before the first of them when the sampler's log-probabilities are not those of the policy.
    """
    spec, temperature = loss_spec(cfg), cfg.rollout.temperature
    tokens = cfg.memory.tokens_per_micro_batch
    share_prompts = "off" if policy.is_recurrent else cfg.memory.share_prompts
    plan = [minibatch.split_sharing(tokens, policy.device, share_prompts=share_prompts) for minibatch in minibatches]
    if reference is not None:
        plan = [
            [replace(micro, reference_logp_T=logp_T) for micro, logp_T in scored(reference, micros, temperature)]
            for micros in plan
        ]
    if len(plan) > 1:  # later minibatches meet a policy that has moved
        plan = [
            [replace(micro, old_logp_T=logp_T) for micro, logp_T in scored(policy, micros, temperature)]
            for micros in plan
        ]
    losses: list[float] = []
    statistics: list[LossStats] = []
    grad_norm: float | None = 0.0
    for _ in range(cfg.grpo.passes_per_rollout):
        for minibatch, micros in zip(minibatches, plan, strict=True):
            total = torch.zeros((), device=policy.device)
            for i, micro in enumerate(in_turn(policy, micros, with_gradient=True)):
                loss, stats = policy_loss(
                    policy.hidden(micro), policy.head, micro, totals=minibatch.totals, spec=spec,
                    logit_map=policy.logit_map, impl=policy.kernels, chunk_rows=policy.logit_chunk_rows,
                )  # fmt: skip
                optimizer.backward(loss)
                micros[i] = micro if micro.old_logp_T is not None else replace(micro, old_logp_T=stats.logp_T)
                total += loss.detach()
                del loss  # and with it the graph, which still holds what its layers were called with
                statistics.append(stats)
            if not losses:
                check(statistics, limit=resolved.max_logp_gap)
            with meter.phase("optimizer"):
                grad_norm = optimizer.step_clipped(cfg.grpo.max_grad_norm)
            losses.append(total.item())
    return losses, statistics, grad_norm


def scored(policy: Policy, micros: Sequence[MicroBatch], temperature: float) -> Iterator[tuple[MicroBatch, Tensor]]:
    """Each micro-batch with the log-probabilities that `policy` gives its trained tokens."""
    for micro in in_turn(policy, micros, with_gradient=False):
        yield micro, policy.logprobs(micro, temperature=temperature)


def loss_spec(cfg: Config) -> LossSpec:
    return LossSpec(
        loss_type=cfg.grpo.loss_type,
        epsilon=cfg.grpo.epsilon,
        epsilon_high=clip_high(cfg.grpo.epsilon, cfg.grpo.epsilon_high),
        delta=cfg.grpo.delta,
        beta=cfg.grpo.beta,
        kl_unbiased=cfg.grpo.kl_unbiased,
        importance_correction=cfg.grpo.importance_correction,
        importance_min=cfg.grpo.importance_min,
        importance_max=cfg.grpo.importance_max,
        entropy_bonus=cfg.grpo.entropy_bonus,
        max_completion_tokens=cfg.rollout.max_completion_tokens,
        temperature=cfg.rollout.temperature,
    )


def make_optimizer(cfg: Config, resolved: ResolvedTraining, policy: Policy, steps: int) -> Optimizer:
    updates = steps * cfg.grpo.minibatches_per_rollout * cfg.grpo.passes_per_rollout
    return Optimizer(
        policy.trainable(),
        learning_rate=cfg.grpo.learning_rate,
        warmup_steps=cfg.grpo.warmup_steps,
        betas=(cfg.grpo.beta1, cfg.grpo.beta2),
        weight_decay=cfg.grpo.weight_decay,
        schedule=cfg.grpo.schedule,
        total_steps=updates,
        kind=cfg.memory.optimizer,
        on_host=resolved.states_on_host,
        scales_loss=policy.is_float16,
    )
