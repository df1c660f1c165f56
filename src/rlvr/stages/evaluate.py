"""data/prepared, models → evaluations/<model>.parquet, metrics/evaluate.json."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr import prepared
from rlvr.config import Config
from rlvr.evaluate import evaluation_table, summary
from rlvr.policy import has_weights
from rlvr.provenance import hash_files, provenance, write_json
from rlvr.stages.begin import stage
from rlvr.stages.parts import open_policy, open_sampler

SECTIONS = ("compute", "model", "rollout", "evaluate")
FOLDER, KEPT = Path("evaluations"), Path(".checkpoints/evaluate")
MODELS = {"base": None, "sft": Path("models/sft"), "grpo": Path("models/grpo")}


def main() -> None:
    with stage("evaluate", SECTIONS) as cfg:
        FOLDER.mkdir(exist_ok=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        metrics: dict[str, Any] = {}
        for name, start in MODELS.items():
            if start is not None and not has_weights(start):
                metrics[name] = None
                continue
            table = _rows(cfg, start)
            table.to_parquet(FOLDER / f"{name}.parquet")
            metrics[name] = summary(table, resamples=cfg.evaluate.bootstrap_resamples, seed=cfg.compute.seed)
            print(f"{name}: greedy {metrics[name]['accuracy']:.3f}, mean@k {metrics[name]['mean_at_k']:.3f}", flush=True)
        write_json(Path("metrics/evaluate.json"), metrics)
        write_json(FOLDER / "card.json", provenance(cfg, device=cfg.compute.device))


def _rows(cfg: Config, start: Path | None) -> pd.DataFrame:
    """The table of one model, computed unless these weights were already judged on these problems and settings."""
    weights = hash_files(*sorted((start or prepared.BASE).glob("*.safetensors")))
    settings = [cfg.digest("compute", "model", "rollout"), cfg.evaluate.samples_per_problem, cfg.evaluate.temperature]
    key = hashlib.sha256(json.dumps([weights, hash_files(prepared.FOLDER), settings]).encode()).hexdigest()
    kept = KEPT / f"{key}.parquet"
    if not kept.exists():
        writing = kept.with_suffix(".writing")
        _judge(cfg, start).to_parquet(writing)
        writing.rename(kept)
    return pd.read_parquet(kept)


def _judge(cfg: Config, start: Path | None) -> pd.DataFrame:
    policy, tokenizer = open_policy(cfg, start=start)
    prompts = prepared.read_prompts("evaluation")
    groups = []
    for temperature, count in ((0.0, 1), (cfg.evaluate.temperature, cfg.evaluate.samples_per_problem)):
        sampler = open_sampler(cfg, tokenizer, temperature=temperature)
        sampler.sync(policy)
        groups.append(sampler.sample(prompts, count, seed=(cfg.compute.seed, -1)))
    return evaluation_table(*groups, cfg.model.template.resolve())
