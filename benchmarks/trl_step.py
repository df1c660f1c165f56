"""One GRPO step of this project beside one of TRL's GRPOTrainer: the same step, in turns, in one process.

    pip install -e '.[bench]'
    python benchmarks/trl_step.py --steps 300

Both start from models/sft of a finished default run, with the settings of params.yaml but one pass per rollout and a
constant learning rate after the warm-up, and the same prompts in the same order. They take turns of --block steps, so
that a machine that speeds up or slows down does so for both. A side is timed only while it has the turn, in two ways:

    loop   everything from the end of one step to the end of the next; for this project with its log line, completion
           tables and checkpoints; for TRL with its data loader, and without logs and checkpoints
    step   from the start of generation to the end of the optimizer step, which leaves all that out on both sides

Before the clock starts, both must give the same prompt tokens and, on the same completions, the same gradient. While
it is stopped, rows of TRL are counted that do not end as ours do (at the first end of sequence or at the limit), or
whose text is not what our rewards would read: TRL drops a sampled <|pad|> or <|unknown|> from it, we keep it.
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
import json
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rlvr import grpo, prepared
from rlvr.advantage import group_advantages, has_signal, reward_tensors, total_rewards
from rlvr.batch import pack
from rlvr.chat import extract_answer, render_prompt
from rlvr.config import Config, load_config
from rlvr.loss import policy_loss
from rlvr.meter import Meter
from rlvr.policy import Policy
from rlvr.prepared import BASE
from rlvr.prompts import draw
from rlvr.rewards import FUNCTIONS, score
from rlvr.source import Source
from rlvr.stages.begin import quiet_transformers
from rlvr.stages.parts import open_policy, open_sampler, planned
from rlvr.state import Run
from rlvr.types import Completion, Group, Prompt
from rlvr.verifiers import number

SFT = Path("models/sft")
OURS, TRL = "rlvr", "trl"
M_ARENA_MAX = -8  # mallopt(3)


class Turns:
    """Two loops, each in a thread of its own, of which one runs at a time, for `block` steps."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.holder, self.finished = OURS, False
        self.changed = threading.Condition()
        self.since = 0.0
        self.loop_seconds: dict[str, list[float]] = {OURS: [], TRL: []}

    def wait(self, side: str) -> None:
        """Return when `side` has the turn, with its clock started."""
        with self.changed:
            self.changed.wait_for(lambda: self.holder == side or self.finished)
        self.since = time.perf_counter()

    def step_done(self, side: str, untimed: Callable[[], None]) -> None:
        """Stop the clock, do what is not timed, and go on or hand over."""
        self.loop_seconds[side].append(time.perf_counter() - self.since)
        untimed()
        if len(self.loop_seconds[side]) % self.block == 0:
            self._give(TRL if side == OURS else OURS)
        self.wait(side)

    def finish(self, side: str) -> None:
        """`side` has ended, well or not: the other one is no longer kept waiting."""
        self.finished = True
        self._give(TRL if side == OURS else OURS)

    def _give(self, side: str) -> None:
        with self.changed:
            self.holder = side
            self.changed.notify_all()


class Side:
    """What one trainer did, a value per step."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self.reward: list[float] = []
        self.accuracy: list[float] = []
        self.length: list[float] = []

    def summary(self, loop_seconds: list[float]) -> dict[str, Any]:
        first, last = slice(0, 10), slice(-10, None)
        return {
            "loop": _times(loop_seconds),
            "step": _times(self.step_seconds),
            "completion_mean_length": statistics.fmean(self.length),
        } | {
            name: {"first_10": statistics.fmean(values[first]), "last_10": statistics.fmean(values[last])}
            for name, values in (("reward", self.reward), ("accuracy", self.accuracy))
        }


def _times(seconds: list[float]) -> dict[str, float]:
    return {"total": sum(seconds), "mean": statistics.fmean(seconds), "median": statistics.median(seconds)}


class Ours:
    """The project's own loop, as the stage runs it; `show`, which it calls after each step, is where turns change."""

    def __init__(self, cfg: Config, prompts: Sequence[Prompt], folder: Path, turns: Turns) -> None:
        self.cfg, self.prompts, self.turns = cfg, prompts, turns
        self.policy, self.tokenizer = open_policy(cfg, start=SFT)
        source, completions = Source.read(BASE), cfg.grpo.completions_per_prompt
        made = planned(cfg, source, prompts, completions=completions, has_reference=cfg.grpo.beta > 0)
        self.sampler = open_sampler(cfg, self.tokenizer, made, temperature=cfg.rollout.temperature)
        self.meter = Meter(self.policy.device)
        self.run = Run(folder)
        self.seen = Side()
        self.error: BaseException | None = None

    def train(self) -> None:
        try:
            self.turns.wait(OURS)
            grpo.train(
                self.cfg,
                self.policy,
                self.sampler,
                self.prompts,
                run=self.run,
                meter=self.meter,
                show=self._step_done,
                stop=lambda: self.turns.finished,
            )
        except BaseException as error:  # noqa: BLE001, RUF100 (raised again by the main thread)
            self.error = error
        finally:
            self.turns.finish(OURS)

    def _step_done(self, done: int, **values: float) -> None:
        def untimed() -> None:
            self.seen.step_seconds.append(sum(self.meter.seconds.values()))
            for name in ("reward", "accuracy", "length"):
                getattr(self.seen, name).append(values[name])

        self.turns.step_done(OURS, untimed)


class Theirs(TrainerCallback):
    """TRL's trainer with the same settings, its rewards wrapped around ours, and the clock in its callbacks."""

    def __init__(self, cfg: Config, prompts: Sequence[Prompt], tokenizer: Any, folder: Path, turns: Turns) -> None:
        self.cfg, self.prompts, self.tokenizer, self.turns = cfg, prompts, tokenizer, turns
        self.tags = cfg.model.template.resolve()
        self.seen = Side()
        self.odd = {"ends": 0, "texts": 0}
        self.started = 0.0
        self.texts: list[str] = []  # of the step that runs, as are the next three
        self.ids: list[list[int]] = []
        self.rows: list[int] = []
        self.points: dict[str, list[float]] = {}
        model = AutoModelForCausalLM.from_pretrained(SFT, dtype=torch.float32, attn_implementation="sdpa")
        adamw = torch.optim.AdamW(
            model.parameters(),
            lr=cfg.grpo.learning_rate,
            betas=(cfg.grpo.beta1, cfg.grpo.beta2),
            weight_decay=cfg.grpo.weight_decay,
            fused=True,  # what transformers would choose
        )
        warmup = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(1.0, (step + 1) / cfg.grpo.warmup_steps))
        self.trainer = GRPOTrainer(
            model,
            [self._reward(name) for name in cfg.rewards],
            args=trl_config(cfg, folder, steps=cfg.grpo.steps or 0),
            train_dataset=Dataset.from_list(
                [
                    {
                        "prompt": render_prompt(
                            tokenizer,
                            prompt.problem.question,
                            system_prompt=cfg.model.template.system_prompt,
                            opening=cfg.model.template.opening,
                        ),
                        "row": row,
                    }
                    for row, prompt in enumerate(prompts)
                ]
            ),
            processing_class=tokenizer,
            callbacks=[self],
            optimizers=(adamw, warmup),
        )
        self.trainer.remove_callback(PrinterCallback)

    def _reward(self, name: str) -> Callable[..., list[float]]:
        function, options = FUNCTIONS[name], self.cfg.rewards[name].options

        def reward(completions: list[str], completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float]:
            points = [
                function(
                    Completion(torch.tensor(ids), torch.zeros(len(ids)), text, is_truncated=False),
                    self.prompts[i].problem,
                    self.tags,
                    **options,
                )
                for text, ids, i in zip(completions, completion_ids, row, strict=True)
            ]
            self.texts, self.ids, self.rows, self.points[name] = completions, completion_ids, row, points
            return points

        reward.__name__ = name
        return reward

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
        self.seen.step_seconds.append(time.perf_counter() - self.started)
        self.turns.step_done(TRL, self._note)

    def _note(self) -> None:
        eos, limit = self.tokenizer.eos_token_id, self.cfg.rollout.max_completion_tokens
        problems = [self.prompts[row].problem for row in self.rows]
        ends = [eos not in ids[:-1] and (ids[-1] == eos or len(ids) == limit) for ids in self.ids]
        texts = self.tokenizer.batch_decode([[i for i in ids if i != eos] for ids in self.ids])
        self.odd["ends"] += ends.count(False)
        self.odd["texts"] += sum(a != b for a, b in zip(texts, self.texts, strict=True))
        total = sum(self.cfg.rewards[name].weight * sum(points) for name, points in self.points.items())
        self.seen.reward.append(total / len(problems))
        correct = [
            number.parse(extract_answer(t, self.tags) or "") == number.parse(p.answer)
            for t, p in zip(texts, problems, strict=True)
        ]
        self.seen.accuracy.append(statistics.fmean(correct))
        self.seen.length.append(statistics.fmean(map(len, self.ids)))


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
        reward_weights=[reward.weight for reward in cfg.rewards.values()],
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
    cfg, policy, sampler = ours.cfg, ours.policy, ours.sampler
    sampler.sync(policy)
    groups = list(
        sampler.sample(ours.prompts[: cfg.grpo.prompts_per_step], cfg.grpo.completions_per_prompt, seed=(12345,))
    )
    scores = score(groups, cfg.rewards, cfg.model.template.resolve())
    reward_PG = total_rewards(reward_tensors(scores.points)[0], scores.weights)
    advantage_PG = group_advantages(reward_PG, scale=cfg.grpo.scale_rewards)
    loss = _our_gradient(cfg, policy, groups, advantage_PG, has_signal(advantage_PG).tolist())
    trainer = theirs.trainer
    trainer.current_gradient_accumulation_steps = 1
    trl_loss = trainer.compute_loss(trainer.model.train(), _trl_batch(groups, advantage_PG))
    torch.autograd.backward(trl_loss)
    gradient = {name: weight.grad for name, weight in trainer.model.named_parameters()}
    largest = max(weight.grad.abs().max().item() for weight in policy.trainable().values())
    difference = max((weight.grad - gradient[name]).abs().max().item() for name, weight in policy.trainable().items())
    for model in (policy.model, trainer.model):
        model.zero_grad(set_to_none=True)
    found = {"gradient_difference": difference / largest, "loss": loss, "trl_loss": trl_loss.item()}
    if not found["gradient_difference"] < 1e-4:
        raise SystemExit(f"the two trainers do not compute the same step: {found}")
    return found


def _our_gradient(
    cfg: Config, policy: Policy, groups: Sequence[Group], advantage_PG: Tensor, keep_P: Sequence[bool]
) -> float:
    scorable_PG = torch.ones_like(advantage_PG, dtype=torch.bool)
    (minibatch,) = pack(groups, advantage_PG, scorable_PG, keep_P, minibatches=1, mask_truncated=False)
    total = 0.0
    for micro in minibatch.split(cfg.memory.tokens_per_micro_batch, policy.device):
        loss, _ = policy_loss(policy.hidden(micro), policy.head, micro, totals=minibatch.totals, spec=cfg.loss_spec())
        torch.autograd.backward(loss)
        total += loss.item()
    return total


def _trl_batch(groups: Sequence[Group], advantage_PG: Tensor) -> dict[str, Tensor]:
    rows = [(group.prompt, completion) for group in groups for completion in group.completions]
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
        "advantages": advantage_PG.float().flatten(),
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
    torch.set_num_threads(1)
    quiet_transformers()
    if sys.platform == "linux":  # one heap for both: a thread other than the main one would get a heap of its own
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    prompts = prepared.read_prompts("train")
    steps, per_step = cfg.grpo.num_steps(len(prompts)), cfg.grpo.prompts_per_step
    drawn = [prompt for step in range(steps) for prompt in draw(prompts, per_step, step=step, seed=cfg.compute.seed)]
    turns = Turns(block)
    with tempfile.TemporaryDirectory() as ours_folder, tempfile.TemporaryDirectory() as trl_folder:
        ours = Ours(cfg, prompts, Path(ours_folder), turns)
        theirs = Theirs(cfg, drawn, ours.tokenizer, Path(trl_folder), turns)
        checks = {"prompts_compared": check_prompts(theirs)} | same_gradient(ours, theirs)
        thread = threading.Thread(target=ours.train, daemon=True)
        thread.start()
        try:
            theirs.train()
        finally:
            thread.join()
        if ours.error is not None:
            raise ours.error
    sides = {OURS: ours.seen.summary(turns.loop_seconds[OURS]), TRL: theirs.seen.summary(turns.loop_seconds[TRL])}
    checks |= {"trl_rows_with_other_end": theirs.odd["ends"], "trl_rows_with_other_text": theirs.odd["texts"]}
    ratios = {
        clock: {kind: sides[TRL][clock][kind] / sides[OURS][clock][kind] for kind in ("total", "median")}
        for clock in ("loop", "step")
    }
    blocks = [
        sum(turns.loop_seconds[TRL][first : first + block]) / sum(turns.loop_seconds[OURS][first : first + block])
        for first in range(0, steps, block)
    ]
    ratios["loop"]["median_of_blocks"] = statistics.median(blocks)
    return {"steps": steps, "block": block, "trl_over_rlvr": ratios, **sides, "checks": checks}


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "datasets")},
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


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
    parser = argparse.ArgumentParser(description="One GRPO step beside TRL's.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--block", type=int, default=10, help="steps of one side before the other has its turn")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cpu/trl_step.json"))
    options = parser.parse_args()
    cfg = load_config()
    settings = {"steps": options.steps, "epochs": None, "passes_per_rollout": 1, "schedule": "constant"}
    one_pass = cfg.grpo.model_copy(update=settings)
    cfg = cfg.model_copy(update={"grpo": one_pass})
    result = {
        "command": shlex.join(["python", "benchmarks/trl_step.py", *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "src", "params.yaml")),
        "machine": machine(),
        **measure(cfg, block=options.block),
        "load_average_after": os.getloadavg(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
