"""data/prepared, models/sft → models/grpo, logs, metrics/train.json, metrics/memory.json."""

import json
import shutil
from contextlib import closing
from pathlib import Path

from rlvr import grpo, prepared
from rlvr.advice import advice
from rlvr.chat import CHAT_TEMPLATE
from rlvr.interrupt import stop_requested
from rlvr.meter import Meter
from rlvr.policy import device_name, has_weights
from rlvr.progress import progress
from rlvr.provenance import commit, hash_files, provenance, write_json
from rlvr.rewards import check_columns, open_scorer
from rlvr.source import Source
from rlvr.stages.begin import stage
from rlvr.stages.parts import open_sampler, open_trainee, planned
from rlvr.state import open_run
from rlvr.steplog import peak_bytes, run_summary
from rlvr.verifiers.judging import check_golds

SECTIONS = ("compute", "model", "rollout", "rewards", "verifiers", "grpo", "memory")
SFT, FOLDER, USER = Path("models/sft"), Path("models/grpo"), Path("user")
LOG, COMPLETIONS = Path("logs/train.jsonl"), Path("logs/completions")


def rewards_of_the_user() -> list[Path]:
    """The files under user/: other code gives other rewards, and a run of its own."""
    return [path for path in sorted(USER.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


def main() -> None:
    with (
        stage("grpo", SECTIONS) as cfg,
        open_scorer(cfg.rewards, cfg.verifiers, cfg.model.template.resolve()) as scorer,
    ):
        fingerprint = cfg.digest(*SECTIONS) + hash_files(prepared.FOLDER, SFT, *rewards_of_the_user())
        prompts = prepared.read_prompts("train")
        problems = [prompt.problem for prompt in prompts]
        check_columns(cfg.rewards, problems)
        check_golds(cfg.verifiers, problems)
        policy, tokenizer = open_trainee(
            cfg, prompts, completions=cfg.grpo.completions_per_prompt, has_reference=cfg.grpo.beta > 0, start=SFT
        )
        made = planned(
            cfg, Source.read(prepared.BASE), prompts,
            completions=cfg.grpo.completions_per_prompt, has_reference=cfg.grpo.beta > 0,
        )  # fmt: skip
        for note in advice(
            cfg,
            len(prompts),
            pre_finetuned=has_weights(SFT),
            num_parameters=sum(weight.numel() for weight in policy.model.parameters()),
            template_added=tokenizer.chat_template == CHAT_TEMPLATE and cfg.model.source != "scratch",
        ):
            print(f"note: {note}", flush=True)
        meter = Meter(policy.device)
        with (
            closing(open_sampler(cfg, tokenizer, made, temperature=cfg.rollout.temperature)) as sampler,
            open_run("grpo", fingerprint) as run,
            stop_requested() as stop,
            progress("grpo", cfg.grpo.num_steps(len(prompts))) as show,
        ):
            grpo.train(cfg, policy, sampler, scorer, prompts, run=run, meter=meter, show=show, stop=stop)
            policy.save(FOLDER)
            tokenizer.save_pretrained(FOLDER)
            write_json(FOLDER / "card.json", provenance(cfg, device=device_name(policy.device)) | {"commit": commit()})
            LOG.parent.mkdir(exist_ok=True)
            shutil.copy(run.log, LOG)
            shutil.copytree(run.completions, COMPLETIONS, dirs_exist_ok=True)
            records = [json.loads(line) for line in LOG.read_text().splitlines()]
            write_json(Path("metrics/train.json"), run_summary(records))
            write_json(Path("metrics/memory.json"), {"kind": meter.kind, "peak_bytes": peak_bytes(records)})
