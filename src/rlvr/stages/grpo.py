"""data/prepared, models/sft → models/grpo, logs, metrics/train.json, metrics/memory.json."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from rlvr import grpo
from rlvr.chat import CHAT_TEMPLATE, tags_of
from rlvr.config import Config
from rlvr.config.advice import advice
from rlvr.model.device import device_name
from rlvr.model.policy import has_weights
from rlvr.plan.account import memory_account, memory_summary
from rlvr.problems import tables
from rlvr.problems.draw import num_steps
from rlvr.problems.golds import bad_golds, refusal, warn_of_formats
from rlvr.rewards import open_scorer
from rlvr.runtime.interrupt import stop_requested
from rlvr.runtime.messages import note
from rlvr.runtime.meter import Meter
from rlvr.runtime.progress import progress
from rlvr.stages.begin import edits, stage, tell_edits
from rlvr.stages.code import files_of_the_user
from rlvr.stages.opening import open_trainee
from rlvr.stages.planning import plan_grpo
from rlvr.stages.provenance import hash_files, is_in_dvc, note_commit, provenance, recipe, write_card, write_json
from rlvr.stages.quantization import precision
from rlvr.stages.resolve import resolve_training
from rlvr.training.disk import check_room
from rlvr.training.kept_runs import open_run
from rlvr.training.log import largest_counted, peak_bytes, run_summary
from rlvr.types import Problem, UserError

SECTIONS = ("compute", "model", "rollout", "rewards", "verifiers", "grpo", "memory")
SFT, FOLDER = Path("models/sft"), Path("models/grpo")
LOG, COMPLETIONS = Path("logs/train.jsonl"), Path("logs/completions")


def with_distinct_prompts(cfg: Config, num_problems: int) -> Config:
    """`cfg` with at most `num_problems` prompts in a step, since a copy of a group would count twice. It says so.

    Raises UserError if grpo.minibatches_per_rollout does not divide that number.
    """
    wanted, parts = cfg.grpo.prompts_per_step, cfg.grpo.minibatches_per_rollout
    if wanted <= num_problems:
        return cfg
    if num_problems % parts:
        raise UserError(
            f"grpo.prompts_per_step {wanted}: there are only {num_problems} training problems, which "
            f"grpo.minibatches_per_rollout {parts} does not divide: set that to 1, or add problems"
        )
    note(f"grpo.prompts_per_step {wanted} is lowered to {num_problems}: there are no more training problems")
    return cfg.model_copy(update={"grpo": cfg.grpo.model_copy(update={"prompts_per_step": num_problems})})


def check_golds_of_rewards(cfg: Config, problems: Sequence[Problem]) -> None:
    """Raise UserError for golds that the verifier of a reward cannot use; prepare checked those of verifiers.answer.

    A user's verifier may have been edited since then, so it reads them again.
    """
    for name, reward in cfg.rewards.items():
        verifier = reward.verifier or cfg.verifiers.answer
        is_checked = verifier == cfg.verifiers.answer and ":" not in verifier
        if not is_checked and (bad := bad_golds(cfg.verifiers, verifier, problems)):
            raise refusal(f"rewards.{name}.verifier {verifier}", bad, count=len(problems))
        if not is_checked:
            warn_of_formats(verifier, problems)


def main() -> None:
    with (
        stage("grpo", SECTIONS, after=("prepare", "sft")) as params,
        open_scorer(params.rewards, params.verifiers, tags_of(params.model.template)) as scorer,
    ):
        prompts = tables.read_prompts("train")
        cfg = with_distinct_prompts(params, len(prompts))
        resolved = resolve_training(cfg)
        made_of = recipe(
            params, "grpo", SECTIONS,
            data=hash_files(tables.FOLDER), start=hash_files(SFT), rewards=hash_files(*files_of_the_user()),
        )  # fmt: skip
        watch = tell_edits(edits("grpo", params, SECTIONS))
        steps = num_steps(cfg.grpo, len(prompts))
        problems = [prompt.problem for prompt in prompts]
        for text in scorer.check_columns(problems):
            note(text)
        check_golds_of_rewards(cfg, problems)
        plan = plan_grpo(cfg, resolved, prompts)
        meter = Meter(resolved.device, uncounted=("rollout",) if resolved.has_engine else ())
        with (
            open_trainee(cfg, resolved, plan, start=SFT, meter=meter) as (policy, tokenizer, sampler),
            open_run("grpo", made_of, watch=watch, is_in_dvc=lambda log: is_in_dvc("grpo", LOG, log)) as run,
            stop_requested() as stop,
            progress("grpo", steps) as show,
        ):
            check_room(run.folder, policy.trainable().values(), cfg.memory.optimizer)
            for text in advice(
                cfg,
                len(prompts),
                steps=steps,
                pre_finetuned=has_weights(SFT),
                num_parameters=sum(weight.numel() for weight in policy.model.parameters()),
                template_added=tokenizer.chat_template == CHAT_TEMPLATE and cfg.model.source != "scratch",
            ):
                note(text)
            grpo.train(cfg, resolved, policy, sampler, scorer, prompts, run=run, meter=meter, show=show, stop=stop)
            policy.save(FOLDER)
            tokenizer.save_pretrained(FOLDER)
            card = {"precision": precision(cfg, resolved)}
            write_card(FOLDER, provenance(cfg, device=device_name(policy.device)) | card)
            LOG.parent.mkdir(exist_ok=True)
            shutil.copy(run.log, LOG)
            shutil.copytree(run.completions, COMPLETIONS, dirs_exist_ok=True)
            records = [json.loads(line) for line in LOG.read_text(encoding="utf-8").splitlines()]
            write_json(Path("metrics/train.json"), run_summary(records))
            counted = plan_grpo(cfg, resolved, prompts, step=largest_counted(records))
            account = memory_account(plan, counted, meter.ledger)
            write_json(Path("logs/memory.json"), account)
            note_commit("grpo")
            write_json(Path("metrics/memory.json"), memory_summary(account, meter.kind, peak_bytes(records)))
