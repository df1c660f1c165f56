"""data/prepared, models → evaluations/<model>.parquet, metrics/evaluate.json."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr.chat import tags_of
from rlvr.config import Config
from rlvr.evaluate import evaluation_table, summary
from rlvr.model.device import device_name
from rlvr.model.policy import has_weights, load_tokenizer
from rlvr.model.resolved import Resolved
from rlvr.model.source import Source
from rlvr.plan.command import demand
from rlvr.problems import tables
from rlvr.runtime.progress import progress
from rlvr.sampler import Sampler, places
from rlvr.stages.begin import stage
from rlvr.stages.code import code_hash
from rlvr.stages.opening import open_policy, open_sampler
from rlvr.stages.planning import plan_sampling
from rlvr.stages.provenance import hash_files, provenance, write_json
from rlvr.stages.quantization import kept_layers, precision
from rlvr.stages.resolve import resolve
from rlvr.types import Group, Prompt
from rlvr.verifiers.verify import open_verifier

SECTIONS = ("compute", "model", "rollout", "verifiers", "evaluate")
FOLDER, KEPT = Path("evaluations"), Path(".checkpoints/evaluate")
MODELS = {"base": None, "sft": Path("models/sft"), "grpo": Path("models/grpo")}


def main() -> None:
    with stage("evaluate", SECTIONS) as cfg:
        resolved = resolve(cfg)
        FOLDER.mkdir(exist_ok=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        prompts, source = tables.read_prompts("evaluation"), Source.read(tables.BASE)
        for completions in (1, cfg.evaluate.samples_per_problem):
            demand(plan_sampling(cfg, resolved, source, prompts, completions=completions))
        files = {name: _kept(cfg, start) for name, start in MODELS.items() if start is None or has_weights(start)}
        if missing := [name for name, file in files.items() if not file.exists()]:
            _evaluate(cfg, resolved, source, {name: files[name] for name in missing}, prompts)
        metrics: dict[str, Any] = dict.fromkeys(MODELS)
        for name, file in files.items():
            table = pd.read_parquet(file)
            table.to_parquet(FOLDER / f"{name}.parquet")
            metrics[name] = summary(table, resamples=cfg.evaluate.bootstrap_resamples, seed=cfg.compute.seed)
            print(
                f"{name}: greedy {metrics[name]['accuracy']:.3f}, mean@k {metrics[name]['mean_at_k']:.3f}", flush=True
            )
        write_json(Path("metrics/evaluate.json"), metrics)
        card = {"precision": precision(cfg, resolved)}
        write_json(FOLDER / "card.json", provenance(cfg, device=device_name(resolved.device)) | card)


def _kept(cfg: Config, start: Path | None) -> Path:
    """Where the table of these weights is kept, made on these problems, with these settings, by this code."""
    weights = hash_files(*sorted((start or tables.BASE).glob("*.safetensors")))
    settings = [
        cfg.digest("compute", "model", "rollout", "verifiers"),
        kept_layers(cfg),
        cfg.evaluate.samples_per_problem,
        cfg.evaluate.temperature,
    ]
    problems = hash_files(tables.FOLDER / "evaluation.parquet", tables.BASE)
    code = code_hash("evaluate")
    key = hashlib.sha256(json.dumps([weights, problems, code, settings]).encode()).hexdigest()
    return KEPT / f"{key}.parquet"


def _evaluate(
    cfg: Config, resolved: Resolved, source: Source, files: dict[str, Path], prompts: Sequence[Prompt]
) -> None:
    """Write the tables of the models named: one engine for all of them, each one's weights in turn."""
    tokenizer, k = load_tokenizer(tables.BASE), cfg.evaluate.samples_per_problem
    plan = plan_sampling(cfg, resolved, source, prompts, completions=k)
    with (
        closing(open_sampler(cfg, resolved, source, tokenizer, plan, temperature=cfg.evaluate.temperature)) as sampler,
        open_verifier(cfg.verifiers) as verify,
    ):
        sampler.resume()
        for name, file in files.items():
            policy = open_policy(resolved, source, tokenizer, sampler, start=MODELS[name], kept=kept_layers(cfg))
            sampler.sync(policy)
            with progress(f"evaluate {name}", 2 * len(prompts)) as show:
                greedy = _answers(sampler.at(0.0), prompts, 1, cfg.compute.seed, show)
                sampled = _answers(sampler, prompts, k, cfg.compute.seed, lambda done: show(len(prompts) + done))
            writing = file.with_suffix(".writing")
            evaluation_table(greedy, sampled, tags_of(cfg.model.template), verify).to_parquet(writing)
            writing.rename(file)


def _answers(
    sampler: Sampler, prompts: Sequence[Prompt], count: int, seed: int, show: Callable[[int], None]
) -> list[Group]:
    groups: list[Group] = []
    for group in sampler.sample(prompts, count, seed=(seed, -1)):
        groups.append(group)
        show(len(groups))
    return [groups[g] for g in places(groups, prompts)]
