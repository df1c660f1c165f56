"""data/prepared, models/sft → models/grpo, logs, metrics/train.json, metrics/memory.json."""

import json
import shutil
from pathlib import Path

from rlvr import grpo
from rlvr.chat import CHAT_TEMPLATE, tags_of
from rlvr.config.advice import advice
from rlvr.model.device import device_name
from rlvr.model.policy import has_weights
from rlvr.plan.account import memory_account, memory_summary
from rlvr.problems import tables
from rlvr.problems.draw import num_steps
from rlvr.rewards import check_columns, open_scorer
from rlvr.runtime.interrupt import stop_requested
from rlvr.runtime.messages import note
from rlvr.runtime.meter import Meter
from rlvr.runtime.progress import progress
from rlvr.stages.begin import stage
from rlvr.stages.code import code_hash
from rlvr.stages.opening import open_trainee
from rlvr.stages.planning import plan_grpo
from rlvr.stages.provenance import commit, hash_files, provenance, write_json
from rlvr.stages.quantization import precision
from rlvr.stages.resolve import resolve_training
from rlvr.training.log import largest_counted, peak_bytes, run_summary
from rlvr.training.run import open_run
from rlvr.verifiers.verify import check_golds

SECTIONS = ("compute", "model", "rollout", "rewards", "verifiers", "grpo", "memory")
SFT, FOLDER, USER = Path("models/sft"), Path("models/grpo"), Path("user")
LOG, COMPLETIONS = Path("logs/train.jsonl"), Path("logs/completions")


def rewards_of_the_user() -> list[Path]:
    """The files under user/: other code gives other rewards, and a new run."""
    return [path for path in sorted(USER.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


def main() -> None:
    with (
        stage("grpo", SECTIONS) as cfg,
        open_scorer(cfg.rewards, cfg.verifiers, tags_of(cfg.model.template)) as scorer,
    ):
        resolved = resolve_training(cfg)
        inputs = hash_files(tables.FOLDER, SFT, *rewards_of_the_user())
        fingerprint = cfg.digest(*SECTIONS) + inputs + code_hash("grpo")
        prompts = tables.read_prompts("train")
        steps = num_steps(cfg.grpo, len(prompts))
        problems = [prompt.problem for prompt in prompts]
        check_columns(cfg.rewards, problems)
        check_golds(cfg.verifiers, problems)
        plan = plan_grpo(cfg, resolved, prompts)
        meter = Meter(resolved.device, uncounted=("rollout",) if resolved.has_engine else ())
        with (
            open_trainee(cfg, resolved, plan, start=SFT, meter=meter) as (policy, tokenizer, sampler),
            open_run("grpo", fingerprint) as run,
            stop_requested() as stop,
            progress("grpo", steps) as show,
        ):
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
            card = {"commit": commit(), "precision": precision(cfg, resolved)}
            write_json(FOLDER / "card.json", provenance(cfg, device=device_name(policy.device)) | card)
            LOG.parent.mkdir(exist_ok=True)
            shutil.copy(run.log, LOG)
            shutil.copytree(run.completions, COMPLETIONS, dirs_exist_ok=True)
            records = [json.loads(line) for line in LOG.read_text().splitlines()]
            write_json(Path("metrics/train.json"), run_summary(records))
            counted = plan_grpo(cfg, resolved, prompts, step=largest_counted(records))
            account = memory_account(plan, counted, meter.ledger)
            write_json(Path("logs/memory.json"), account)
            write_json(Path("metrics/memory.json"), memory_summary(account, meter.kind, peak_bytes(records)))
