"""GRPO: sample groups, score them, improve the policy. The loop, and nothing else."""
# P prompts

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlvr.attention.shared_prompt import in_turn
from rlvr.batch import MicroBatch, MiniBatch, pack
from rlvr.config import Config
from rlvr.loss import LossStats, policy_loss
from rlvr.memory.states import waits_on_host
from rlvr.model.policy import Policy
from rlvr.rewards import Scorer
from rlvr.rollout import check_scores, collect
from rlvr.runtime.messages import warn
from rlvr.runtime.meter import Meter
from rlvr.runtime.progress import Show
from rlvr.sampler import Sampler
from rlvr.training.log import completion_table, step_record
from rlvr.training.mismatch import check, limit_of
from rlvr.training.optim import Optimizer
from rlvr.training.run import Run
from rlvr.types import Interrupted, Prompt, StepFailed

MESSAGES = 3  # of what went wrong in scoring, printed for each step
SAVED = (
    "The state before this step is saved, and nothing was trained on the step: mend this, and the same command goes on "
    "from here (other params, data or code of rewards begin a new run)"
)


def train(
    cfg: Config,
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

    After a checkpoint it raises Interrupted when `stop()`, and StepFailed when the engine failed, when more than
    `grpo.max_unscorable` of a step's completions could not be scored, or when sampler and policy are further apart than
    `rollout.max_logp_gap`; that step is then not trained on, and a next run begins with it.
    """
    reference = policy.frozen_copy() if cfg.grpo.beta else None  # before restore: the policy as GRPO starts
    steps = cfg.grpo.num_steps(len(prompts))
    optimizer = make_optimizer(cfg, policy, steps)
    start, _ = run.restore(policy, optimizer)
    for step in range(start, steps):
        meter.begin_step()
        learning_rate = optimizer.rate()
        try:
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
                losses, stats, grad_norm = update(cfg, policy, reference, optimizer, minibatches, meter)
        except StepFailed as failure:
            run.save(step, policy, optimizer, {})
            raise type(failure)(f"step {step + 1}: {failure}\n{SAVED}") from failure
        record = step_record(step, rollout, keep_P, losses, stats, meter)
        run.append_log(record | {"grad_norm": grad_norm, "learning_rate": learning_rate} | optimizer.record())
        if step % cfg.grpo.log_completions_every == 0 or step + 1 == steps:
            completion_table(step, rollout).to_parquet(run.completions / f"{step:08d}.parquet")
        asked_to_stop = stop()
        if (step + 1) % cfg.grpo.checkpoint_every == 0 or asked_to_stop:
            run.save(step + 1, policy, optimizer, {})
        show(step + 1, reward=record["reward/mean"], accuracy=record["accuracy"],
             length=record["completion/mean_length"], **{"tokens/s": record["tokens/second"]})  # fmt: skip
        if asked_to_stop:
            raise Interrupted(f"stopped after step {step + 1} of {steps}")


def update(
    cfg: Config,
    policy: Policy,
    reference: Policy | None,
    optimizer: Optimizer,
    minibatches: Sequence[MiniBatch],
    meter: Meter,
) -> tuple[list[float], list[LossStats], float | None]:
    """Every pass over every minibatch: one optimizer step each. Losses by step, statistics, last gradient norm.

    Raises Mismatch before the first of them when the sampler's log-probabilities are not those of the policy.
    """
    spec, temperature = cfg.loss_spec(), cfg.rollout.temperature
    tokens, share_prompts = cfg.memory.tokens_per_micro_batch, cfg.memory.share_prompts
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
                    soft_cap=policy.logit_map.soft_cap, logit_scale=policy.logit_map.scale,
                    impl=policy.kernels, chunk_rows=policy.logit_chunk_rows,
                )  # fmt: skip
                optimizer.backward(loss)
                micros[i] = micro if micro.old_logp_T is not None else replace(micro, old_logp_T=stats.logp_T)
                total += loss.detach()
                del loss  # and with it the graph, which still holds what its layers were called with
                statistics.append(stats)
            if not losses:
                check(statistics, limit=limit_of(cfg.rollout.max_logp_gap, policy.head.dtype))
            with meter.phase("optimizer"):
                grad_norm = optimizer.step_clipped(cfg.grpo.max_grad_norm)
            losses.append(total.item())
    return losses, statistics, grad_norm


def scored(policy: Policy, micros: Sequence[MicroBatch], temperature: float) -> Iterator[tuple[MicroBatch, Tensor]]:
    """Each micro-batch with the log-probabilities that `policy` gives its trained tokens."""
    for micro in in_turn(policy, micros, with_gradient=False):
        yield micro, policy.logprobs(micro, temperature=temperature)


def make_optimizer(cfg: Config, policy: Policy, steps: int) -> Optimizer:
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
        on_host=waits_on_host(cfg.memory.optimizer_on_host, policy.device),
        scales_loss=policy.is_float16,
    )
