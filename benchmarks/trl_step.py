"""One GRPO step of this project compared with one of TRL's GRPOTrainer: the same step, in turns, in one process.

    pip install -e '.[bench]'
    python benchmarks/trl_step.py --steps 300

Both start from models/sft of a finished default run, with the settings of params.yaml but one pass per rollout and a
constant learning rate after the warm-up, and the same prompts in the same order. They take turns of --block steps. A
side is timed only while it has the turn, in two ways:

    loop   everything from the end of one step to the end of the next; for this project with its log line, completion
           tables and checkpoints; for TRL with its data loader, and without logs and checkpoints
    step   from the start of generation to the end of the optimizer step, which leaves all that out on both sides

Before the clock starts, both must give the same prompt tokens and, on the same completions, the same gradient. Rewards
are this project's on both sides. Rows of TRL are counted that do not end as ours do (at the first end of sequence or at
the limit), or whose text is not what our rewards would read: TRL drops a sampled <|pad|> or <|unknown|> from it.
"""
# P prompts · G completions per prompt · B = P·G rows · L padded length

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import ctypes
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from recipe import RESULTS, write_result
from rlvr import grpo
from rlvr.advantage import reward_tensors, total_rewards
from rlvr.batch import pack
from rlvr.chat import opening_of, render_prompt, tags_of
from rlvr.config import Config, load_config
from rlvr.loss import policy_loss
from rlvr.problems import tables
from rlvr.problems.draw import draw, num_steps
from rlvr.rewards import Scorer, Scores, open_scorer
from rlvr.rollout import Rollout, collect
from rlvr.runtime.meter import Meter
from rlvr.stages.begin import quiet_transformers
from rlvr.stages.opening import open_trainee
from rlvr.stages.planning import plan_grpo
from rlvr.stages.resolve import resolve_training
from rlvr.training.run import Run
from rlvr.types import Answered, Prompt
from turns import Turns

SFT = Path("models/sft")
OURS, TRL = "rlvr", "trl"
M_ARENA_MAX = -8  # mallopt(3)


class Ours:
    """The project's own loop, as the stage runs it; `show`, which it calls after each step, is where turns change."""

    def __init__(self, cfg: Config, prompts: Sequence[Prompt], scorer: Scorer, folder: Path, turns: Turns) -> None:
        self.cfg, self.prompts, self.scorer, self.turns = cfg, prompts, scorer, turns
        self.resolved = resolve_training(cfg)
        plan = plan_grpo(cfg, self.resolved, prompts)
        self.opened = open_trainee(cfg, self.resolved, plan, start=SFT)
        self.policy, self.tokenizer, self.sampler = self.opened.__enter__()
        self.meter = Meter(self.policy.device)
        self.run = Run(folder)
        self.error: BaseException | None = None

    def train(self) -> None:
        try:
            self.turns.wait(OURS)
            grpo.train(
                self.cfg, self.resolved, self.policy, self.sampler, self.scorer, self.prompts, run=self.run,
                meter=self.meter, show=self._step_done, stop=lambda: self.turns.finished,
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001, RUF100 (raised again by the main thread)
            self.error = error
        finally:
            self.turns.finish(OURS)

    def _step_done(self, done: int, **values: Any) -> None:
        seconds = sum(self.meter.seconds[phase] for phase in ("rollout", "score", "update"))
        seen = {name: values[name] for name in ("reward", "accuracy", "length")}
        self.turns.step_done(OURS, lambda: self.turns.sides[OURS].note(seconds, **seen))

    def first_rollout(self) -> Rollout:
        self.sampler.sync(self.policy)
        return collect(self.cfg, self.sampler, self.scorer, self.prompts, step=0, meter=self.meter)


class Theirs(TrainerCallback):  # type: ignore[misc]
    """TRL's trainer with the same settings, its reward ours, and the clock in its callbacks."""

    def __init__(
        self, cfg: Config, prompts: Sequence[Prompt], tokenizer: Any, scorer: Scorer, folder: Path, turns: Turns
    ) -> None:
        self.cfg, self.prompts, self.tokenizer, self.scorer, self.turns = cfg, prompts, tokenizer, scorer, turns
        self.odd = {"ends": 0, "texts": 0}
        self.started = 0.0
        self.rows: list[tuple[str, list[int]]] = []  # text and ids, of the step that runs
        self.scores: Scores | None = None
        model = AutoModelForCausalLM.from_pretrained(SFT, dtype=torch.float32, attn_implementation="sdpa")
        adamw = torch.optim.AdamW(
            model.parameters(),
            lr=cfg.grpo.learning_rate,
            betas=(cfg.grpo.beta1, cfg.grpo.beta2),
            weight_decay=cfg.grpo.weight_decay,
            fused=True,  # what transformers would choose
        )
        warmup = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(1.0, (step + 1) / cfg.grpo.warmup_steps))
        template = cfg.model.template
        texts = [
            render_prompt(
                tokenizer,
                prompt.problem.question,
                system_prompt=template.system_prompt,
                opening=opening_of(template, tokenizer).added,
            )
            for prompt in prompts
        ]
        self.trainer = GRPOTrainer(
            model,
            [self._reward],
            args=trl_config(cfg, folder, steps=cfg.grpo.steps or 0),
            train_dataset=Dataset.from_list([{"prompt": text, "row": row} for row, text in enumerate(texts)]),
            processing_class=tokenizer,
            callbacks=[self],
            optimizers=(adamw, warmup),
        )
        self.trainer.remove_callback(PrinterCallback)

    def _reward(self, completions: list[str], completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float]:
        per_prompt = self.cfg.grpo.completions_per_prompt
        answered = [
            Answered(text, len(ids), is_truncated=ids[-1] != self.tokenizer.eos_token_id)
            for text, ids in zip(completions, completion_ids, strict=True)
        ]
        for first in range(0, len(answered), per_prompt):
            self.scorer.submit(self.prompts[row[first]].problem, answered[first : first + per_prompt])
        self.scores = self.scorer.finish()
        self.rows = list(zip(completions, completion_ids, strict=True))
        return self._totals().flatten().tolist()

    def _totals(self) -> Tensor:
        assert self.scores is not None
        return total_rewards(reward_tensors(self.scores.points)[0], self.scores.weights)

    def train(self) -> None:
        try:
            self.trainer.train()
        finally:
            self.turns.finish(TRL)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.turns.wait(TRL)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds = time.perf_counter() - self.started
        self.turns.step_done(TRL, lambda: self._note(seconds))

    def _note(self, seconds: float) -> None:
        assert self.scores is not None
        eos, limit = self.tokenizer.eos_token_id, self.cfg.rollout.max_completion_tokens
        read, ids_B = zip(*self.rows, strict=True)
        ends = [eos not in ids[:-1] and (ids[-1] == eos or len(ids) == limit) for ids in ids_B]
        texts = self.tokenizer.batch_decode([[i for i in ids if i != eos] for ids in ids_B])
        self.odd["ends"] += ends.count(False)
        self.odd["texts"] += sum(a != b for a, b in zip(texts, read, strict=True))
        right = [verdict.is_right for verdicts in self.scores.verdicts for verdict in verdicts]
        self.turns.sides[TRL].note(
            seconds, reward=self._totals().mean().item(), accuracy=statistics.fmean(right),
            length=statistics.fmean(map(len, ids_B)),
        )  # fmt: skip


def trl_config(cfg: Config, folder: Path, *, steps: int) -> GRPOConfig:
    """Our settings in TRL's words, and nothing switched on that costs time."""
    settings = cfg.grpo
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=steps,
        seed=cfg.compute.seed,
        # the rollout: one generation, one optimizer step, the prompts in our order
        per_device_train_batch_size=settings.prompts_per_step * settings.completions_per_prompt,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_generations=settings.completions_per_prompt,
        num_iterations=settings.passes_per_rollout,
        shuffle_dataset=False,
        max_completion_length=cfg.rollout.max_completion_tokens,
        temperature=cfg.rollout.temperature,
        top_p=1.0,
        top_k=0,
        use_vllm=False,
        # the loss
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        epsilon=settings.epsilon,
        epsilon_high=settings.epsilon_high,
        beta=settings.beta,
        mask_truncated_completions=settings.mask_truncated_completions,
        max_grad_norm=settings.max_grad_norm,
        # what makes it fast here
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        log_completions=False,
    )


def same_gradient(ours: Ours, theirs: Theirs) -> dict[str, float]:
    """Both gradients for one rollout of ours: the largest difference, relative to the largest entry, and the losses."""
    rollout = ours.first_rollout()
    loss = our_gradient(ours, rollout)
    trained = {name: weight.grad for name, weight in ours.policy.trainable().items() if weight.grad is not None}
    trainer = theirs.trainer
    trainer.current_gradient_accumulation_steps = 1
    trl_loss = trainer.compute_loss(trainer.model.train(), trl_batch(rollout))
    torch.autograd.backward(trl_loss)
    gradient = {name: weight.grad for name, weight in trainer.model.named_parameters()}
    largest = max(own.abs().max().item() for own in trained.values())
    difference = max((own - gradient[name]).abs().max().item() for name, own in trained.items())
    for model in (ours.policy.model, trainer.model):
        model.zero_grad(set_to_none=True)
    found = {"gradient_difference": difference / largest, "loss": loss, "trl_loss": trl_loss.item()}
    if not found["gradient_difference"] < 1e-4:
        raise SystemExit(f"the two trainers do not compute the same step: {found}")
    return found


def our_gradient(ours: Ours, rollout: Rollout) -> float:
    """The loss of one rollout; its gradient is left in the parameters."""
    (minibatch,) = pack(
        rollout.groups, rollout.advantage_PG, ~rollout.reward_PG.isnan(), rollout.signal_P.tolist(),
        minibatches=1, mask_truncated=ours.cfg.grpo.mask_truncated_completions,
    )  # fmt: skip
    policy, total = ours.policy, 0.0
    for micro in minibatch.split(ours.cfg.memory.tokens_per_micro_batch, policy.device):
        loss, _ = policy_loss(
            policy.hidden(micro), policy.head, micro, totals=minibatch.totals, spec=grpo.loss_spec(ours.cfg)
        )
        torch.autograd.backward(loss)
        total += loss.item()
    return total


def trl_batch(rollout: Rollout) -> dict[str, Tensor]:
    """The batch that TRL's loss takes, of one of our rollouts."""
    rows = [(group.prompt, completion) for group in rollout.groups for completion in group.completions]
    completion_BL = pad_sequence([c.token_ids for _, c in rows], batch_first=True)
    length_B = torch.tensor([len(c.token_ids) for _, c in rows])
    mask_BL = (torch.arange(completion_BL.shape[1]) < length_B[:, None]).long()
    prompt_BL = pad_sequence(
        [torch.tensor(prompt.tokens) for prompt, _ in rows], batch_first=True, padding_side="left", padding_value=-1
    )
    return {
        "prompt_ids": prompt_BL.clamp(min=0),
        "prompt_mask": (prompt_BL >= 0).long(),
        "completion_ids": completion_BL,
        "completion_mask": mask_BL,
        "advantages": rollout.advantage_PG.float().flatten(),
        "num_items_in_batch": mask_BL.sum(),
    }


def check_prompts(theirs: Theirs) -> int:
    """How many prompts there are. Raises SystemExit if TRL tokenizes one of them to other tokens than ours."""
    found = theirs.trainer.processing_class(text=theirs.trainer.train_dataset["prompt"][:])["input_ids"]
    for ids, prompt in zip(found, theirs.prompts, strict=True):
        if tuple(ids) != prompt.tokens:
            raise SystemExit(f"TRL reads {prompt.problem.question!r} as {ids}, we as {list(prompt.tokens)}")
    return len(found)


def measure(cfg: Config, *, block: int) -> dict[str, Any]:
    """Run both to the end and return what is to be written."""
    prompts = tables.read_prompts("train")
    steps, per_step = num_steps(cfg.grpo, len(prompts)), cfg.grpo.prompts_per_step
    drawn = [prompt for step in range(steps) for prompt in draw(prompts, per_step, step=step, seed=cfg.compute.seed)]
    turns, scoring = Turns(OURS, TRL, block=block), (cfg.rewards, cfg.verifiers, tags_of(cfg.model.template))
    with (
        tempfile.TemporaryDirectory() as ours_folder,
        tempfile.TemporaryDirectory() as trl_folder,
        open_scorer(*scoring) as our_scorer,
        open_scorer(*scoring) as trl_scorer,
    ):
        ours = Ours(cfg, prompts, our_scorer, Path(ours_folder), turns)
        theirs = Theirs(cfg, drawn, ours.tokenizer, trl_scorer, Path(trl_folder), turns)
        checks = {"prompts_compared": check_prompts(theirs)} | same_gradient(ours, theirs)
        thread = threading.Thread(target=ours.train, daemon=True)
        thread.start()
        try:
            theirs.train()
        finally:
            thread.join()
        if ours.error is not None:
            raise ours.error
    checks |= {"trl_rows_with_other_end": theirs.odd["ends"], "trl_rows_with_other_text": theirs.odd["texts"]}
    sides = {name: side.summary() for name, side in turns.sides.items()}
    return {"steps": steps, "block": block, "trl_over_rlvr": ratios(turns, sides), **sides, "checks": checks}


def ratios(turns: Turns, sides: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """TRL's seconds over ours, on both clocks; of the blocks that follow each other, the median."""
    found = {
        clock: {kind: sides[TRL][clock][kind] / sides[OURS][clock][kind] for kind in ("total", "median")}
        for clock in ("loop", "step")
    }
    ours, theirs = (turns.sides[name].loop_seconds for name in (OURS, TRL))
    parts = [slice(first, first + turns.block) for first in range(0, len(ours), turns.block)]
    found["loop"]["median_of_blocks"] = statistics.median(sum(theirs[part]) / sum(ours[part]) for part in parts)
    return found


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':28}{'rlvr':>10}{'trl':>10}{'trl/rlvr':>10}"]
    for clock in ("loop", "step"):
        for kind, unit in (("total", "s"), ("mean", "ms"), ("median", "ms")):
            ours, trl = (result[side][clock][kind] * (1.0 if unit == "s" else 1e3) for side in (OURS, TRL))
            lines.append(f"{f'{clock}, {kind} [{unit}]':28}{ours:>10.1f}{trl:>10.1f}{trl / ours:>10.2f}")
    for name in ("reward", "accuracy"):
        for part in ("first_10", "last_10"):
            ours, trl = (result[side][name][part] for side in (OURS, TRL))
            lines.append(f"{f'{name}, {part} steps'.replace('_', ' '):28}{ours:>10.3f}{trl:>10.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="One GRPO step compared with TRL's.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--block", type=int, default=10, help="steps of one side before the other has its turn")
    parser.add_argument("--output", type=Path, default=RESULTS / "trl_step.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    if sys.platform == "linux":  # one heap for both: a thread other than the main one would get its own heap
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    cfg = load_config()
    settings = {"steps": options.steps, "epochs": None, "passes_per_rollout": 1, "schedule": "constant"}
    cfg = cfg.model_copy(update={"grpo": cfg.grpo.model_copy(update=settings)})
    load_before = os.getloadavg()
    result = measure(cfg, block=options.block)
    about = {"trl_version": version("trl"), "load_average_before": load_before, "load_average_after": os.getloadavg()}
    write_result(options.output, [about | result])
    print(table(result))


if __name__ == "__main__":
    main()
