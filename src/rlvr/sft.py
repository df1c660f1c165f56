"""The format pre-finetune: teach the answer's shape on worked examples until sampled answers are right now and then.

GRPO learns only where the chance of a right answer is above zero, so the stop is measured on sampled answers:
greedy ones hide how weak the policy is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from rlvr.batch import MiniBatch, supervised
from rlvr.chat import Tags, extract_answer, tags_of
from rlvr.config import Config
from rlvr.model.policy import Policy
from rlvr.model.resolved import ResolvedTraining
from rlvr.problems.draw import draw
from rlvr.runtime.messages import note
from rlvr.runtime.progress import Show
from rlvr.sampler import Sampler
from rlvr.training.optim import Optimizer
from rlvr.training.run import Run
from rlvr.types import Group, Interrupted, Prompt, Totals
from rlvr.verifiers.verify import Verify

Example = tuple[tuple[int, ...], Tensor]  # prompt tokens, target tokens


def train(
    cfg: Config,
    resolved: ResolvedTraining,
    policy: Policy,
    sampler: Sampler,
    examples: Sequence[Example],
    dev: Sequence[Prompt],
    verify: Verify,
    *,
    run: Run,
    show: Show,
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """Train until a stop threshold is reached or `sft.max_steps` are done; what was measured last.

    The run's log has a line for every look at the dev answers, the first (step -1) before any training.
    Raises Interrupted after a checkpoint when `stop()`, and StepFailed as GRPO does.
    """
    tags, seed = tags_of(cfg.model.template), cfg.compute.seed
    optimizer = Optimizer(
        policy.trainable(),
        learning_rate=cfg.sft.learning_rate,
        warmup_steps=cfg.sft.warmup_steps,
        betas=(0.9, cfg.sft.beta2),
        weight_decay=cfg.sft.weight_decay,
        schedule="constant",
        total_steps=cfg.sft.max_steps,
        kind=cfg.memory.optimizer,
        on_host=resolved.states_on_host,
        scales_loss=policy.is_float16,
    )
    start, notes = run.restore(policy, optimizer)
    measured: dict[str, Any] = notes.get("measured", {})
    if start == 0:
        measured = {"steps": 0, **look(policy, sampler, dev, tags, verify, seed=(seed, 0))}
        run.append_log({"step": -1, "loss": None, **measured})
        show(0, **_shown(measured))
    for step in range(start, cfg.sft.max_steps):
        if (reached := _reached(cfg, measured)) is not None:
            note(f"the pre-finetune ends after {step} of {cfg.sft.max_steps} steps: {reached}")
            break
        batch = draw(examples, cfg.sft.batch_size, step=step, seed=seed)
        done = step + 1
        with run.training(step, policy, optimizer, {"measured": measured}):
            loss = supervised_step(policy, optimizer, batch, cfg.memory.tokens_per_micro_batch, cfg.sft.max_grad_norm)
            measured = measured | {"steps": done, "loss": loss}
            if done % cfg.sft.check_every == 0 or done == cfg.sft.max_steps:
                measured |= look(policy, sampler, dev, tags, verify, seed=(seed, done))
                run.append_log({"step": step, **measured})
                run.save(done, policy, optimizer, {"measured": measured})
        show(done, **_shown(measured))
        if stop():
            run.save(done, policy, optimizer, {"measured": measured})
            raise Interrupted(f"stopped after step {done}")
    return measured


def supervised_step(
    policy: Policy, optimizer: Optimizer, batch: Sequence[Example], tokens_per_micro_batch: int, max_grad_norm: float
) -> float:
    """One step on −Σ logp / N over the N target tokens of `batch`: every token weighs the same. The loss before."""
    rows = supervised(batch)
    num_tokens = sum(len(row.token_ids) for row in rows)
    total = 0.0
    for micro in MiniBatch(rows, Totals(len(rows), num_tokens)).split(tokens_per_micro_batch, policy.device):
        logp_T, _ = policy.token_logprobs(micro, temperature=1.0)
        loss = -logp_T.sum() / num_tokens
        optimizer.backward(loss)
        total += loss.item()
    optimizer.step_clipped(max_grad_norm)
    return total


def look(
    policy: Policy, sampler: Sampler, dev: Sequence[Prompt], tags: Tags, verify: Verify, *, seed: tuple[int, ...]
) -> dict[str, float]:
    """How `policy` as it is now answers the dev questions, sampled."""
    sampler.resume()
    sampler.sync(policy)
    answers = rates(sampler.sample(dev, 1, seed=seed), tags, verify)
    sampler.release()
    return answers


def rates(groups: Iterable[Group], tags: Tags, verify: Verify) -> dict[str, float]:
    """Strict accuracy and format rate of sampled answers."""
    answers = [
        (extract_answer(completion.text, tags), group.prompt.problem)
        for group in groups
        for completion in group.completions
    ]
    return {
        "accuracy": sum(verdict.is_right for verdict in verify(answers)) / len(answers),
        "format_rate": sum(answer is not None for answer, _ in answers) / len(answers),
    }


def _shown(measured: dict[str, Any]) -> dict[str, float | None]:
    return {name: measured.get(name) for name in ("loss", "accuracy", "format_rate")}


def _reached(cfg: Config, measured: dict[str, Any]) -> str | None:
    """Which threshold was reached, in words; None while there is none."""
    for name in ("accuracy", "format_rate"):
        least, value = getattr(cfg.sft, f"stop_{name}"), measured.get(name, -1.0)
        if least is not None and value >= least:
            return f"{name} {value:.3g} has reached sft.stop_{name} {least:.3g}"
    return None
