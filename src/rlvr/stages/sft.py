"""data/prepared → models/sft: the format pre-finetune, or a marker that it is off."""

import shutil
import time
from pathlib import Path

from rlvr import sft
from rlvr.config.advice import sft_advice
from rlvr.model.device import device_name
from rlvr.model.source import Source
from rlvr.problems import tables
from rlvr.runtime.interrupt import stop_requested
from rlvr.runtime.messages import note
from rlvr.runtime.progress import progress
from rlvr.stages.begin import edits, stage, tell_edits
from rlvr.stages.code import own_verifier_hash
from rlvr.stages.opening import check_sampler, open_trainee
from rlvr.stages.planning import plan_training
from rlvr.stages.provenance import hash_files, is_in_dvc, provenance, recipe, write_card, write_json
from rlvr.stages.quantization import decide, precision
from rlvr.stages.resolve import resolve_training
from rlvr.training.disk import check_room
from rlvr.training.kept_runs import open_run
from rlvr.verifiers.verify import open_verifier

SECTIONS = ("compute", "model", "sft", "rollout", "verifiers", "memory")
FOLDER, METRICS, LOG = Path("models/sft"), Path("metrics/sft.json"), Path("logs/sft.jsonl")


def main() -> None:
    with stage("sft", SECTIONS, after=("prepare",)) as cfg:
        resolved = resolve_training(cfg)
        LOG.parent.mkdir(exist_ok=True)
        if not cfg.sft.enabled:
            check_sampler(cfg, resolved, Source.read(tables.BASE))
            decide(cfg, resolved)
            write_card(FOLDER, {"enabled": False})
            write_json(METRICS, {"enabled": False})
            LOG.write_text("", encoding="utf-8")
            return
        for text in sft_advice(cfg):
            note(text)
        started = time.perf_counter()
        made_of = recipe(
            cfg, "sft", SECTIONS, data=hash_files(tables.FOLDER), verifier=own_verifier_hash(cfg.verifiers.answer)
        )
        watch = tell_edits(edits("sft", cfg, SECTIONS))
        examples, dev = tables.read_examples("sft"), tables.read_prompts("dev")
        plan = plan_training(
            cfg, resolved, dev, completions=1, at_once=len(dev), minibatch=cfg.sft.batch_size, has_reference=False
        )
        with (
            open_trainee(cfg, resolved, plan, start=None) as (policy, tokenizer, sampler),
            open_run("sft", made_of, watch=watch, is_in_dvc=lambda log: is_in_dvc("sft", LOG, log)) as run,
            open_verifier(cfg.verifiers) as verify,
            stop_requested() as stop,
            progress("sft", cfg.sft.max_steps) as show,
        ):
            check_room(run.folder, policy.trainable().values(), cfg.memory.optimizer)
            measured = sft.train(cfg, resolved, policy, sampler, examples, dev, verify, run=run, show=show, stop=stop)
            policy.save(FOLDER)
            shutil.copy(run.log, LOG)
            tokenizer.save_pretrained(FOLDER)
            made_by = provenance(cfg, device=device_name(policy.device))
            write_card(FOLDER, {"enabled": True, "precision": precision(cfg, resolved)} | made_by)
            write_json(METRICS, {"enabled": True, "seconds": time.perf_counter() - started, **measured})
