"""data/prepared, models → evaluations/<model>.parquet, metrics/evaluate.json."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr import prepared, verifiers
from rlvr.config import Config
from rlvr.evaluate import evaluation_table, summary
from rlvr.policy import device_name, device_of, has_weights
from rlvr.progress import progress
from rlvr.provenance import hash_files, provenance, write_json
from rlvr.stages.begin import stage
from rlvr.stages.parts import open_policy, open_sampler
from rlvr.stages.quantization import kept_layers, precision
from rlvr.types import Group
from rlvr.verifiers.judging import open_judge

SECTIONS = ("compute", "model", "rollout", "verifiers", "evaluate")
FOLDER, KEPT = Path("evaluations"), Path(".checkpoints/evaluate")
VERIFIERS = Path(verifiers.__file__).parent
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
            table = _rows(cfg, name, start)
            table.to_parquet(FOLDER / f"{name}.parquet")
            metrics[name] = summary(table, resamples=cfg.evaluate.bootstrap_resamples, seed=cfg.compute.seed)
            print(
                f"{name}: greedy {metrics[name]['accuracy']:.3f}, mean@k {metrics[name]['mean_at_k']:.3f}", flush=True
            )
        write_json(Path("metrics/evaluate.json"), metrics)
        card = {"precision": precision(cfg)}
        write_json(FOLDER / "card.json", provenance(cfg, device=device_name(device_of(cfg))) | card)


def _rows(cfg: Config, name: str, start: Path | None) -> pd.DataFrame:
    """The table of one model, computed unless these weights were already judged on these problems and settings."""
    weights = hash_files(*sorted((start or prepared.BASE).glob("*.safetensors")))
    settings = [
        cfg.digest("compute", "model", "rollout", "verifiers"),
        kept_layers(cfg),
        cfg.evaluate.samples_per_problem,
        cfg.evaluate.temperature,
    ]
    problems = hash_files(prepared.FOLDER / "evaluation.parquet", prepared.BASE)
    judges = hash_files(*sorted(VERIFIERS.glob("*.py")))
    key = hashlib.sha256(json.dumps([weights, problems, judges, settings]).encode()).hexdigest()
    kept = KEPT / f"{key}.parquet"
    if not kept.exists():
        writing = kept.with_suffix(".writing")
        _judge(cfg, name, start).to_parquet(writing)
        writing.rename(kept)
    return pd.read_parquet(kept)


def _judge(cfg: Config, name: str, start: Path | None) -> pd.DataFrame:
    policy, tokenizer = open_policy(cfg, start=start)
    prompts = prepared.read_prompts("evaluation")
    greedy: list[Group] = []
    sampled: list[Group] = []
    k = cfg.evaluate.samples_per_problem
    with progress(f"evaluate {name}", 2 * len(prompts)) as show:
        for groups, count, temperature in ((greedy, 1, 0.0), (sampled, k, cfg.evaluate.temperature)):
            sampler = open_sampler(cfg, tokenizer, temperature=temperature)
            sampler.sync(policy)
            at_once = max(1, cfg.rollout.max_rows // count)
            for first in range(0, len(prompts), at_once):
                batch = prompts[first : first + at_once]
                groups.extend(sampler.sample(batch, count, seed=(cfg.compute.seed, -1)))
                show(len(greedy) + len(sampled))
    with open_judge(cfg.verifiers) as judge:
        return evaluation_table(greedy, sampled, cfg.model.template.resolve(), judge)
