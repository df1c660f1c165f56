"""data/prepared, models → evaluations/<model>.parquet, metrics/evaluate.json."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr.chat import tags_of
from rlvr.config import Config
from rlvr.config.advice import evaluation_advice
from rlvr.evaluate import answers_table, judged, summary
from rlvr.model.device import device_name
from rlvr.model.policy import has_weights, load_tokenizer
from rlvr.model.resolved import Resolved
from rlvr.model.source import Source
from rlvr.plan.command import demand
from rlvr.problems import tables
from rlvr.runtime.messages import note, warn
from rlvr.runtime.progress import progress
from rlvr.sampler import Sampler, places
from rlvr.stages.begin import stage
from rlvr.stages.code import code_hash, own_verifier_hash
from rlvr.stages.opening import open_policy, open_sampler
from rlvr.stages.planning import plan_sampling
from rlvr.stages.provenance import CARD, check_files, computing_versions, hash_files, provenance, write_json
from rlvr.stages.quantization import kept_layers, precision
from rlvr.stages.resolve import resolve
from rlvr.types import Group, Problem, Prompt, UserError
from rlvr.verifiers.verify import open_verifier

SECTIONS = ("compute", "model", "rollout", "verifiers", "evaluate")
FOLDER, KEPT = Path("evaluations"), Path(".checkpoints/evaluate")
DIGEST_BYTES = 32
MODELS = {"base": None, "sft": Path("models/sft"), "grpo": Path("models/grpo")}


def main() -> None:
    with stage("evaluate", SECTIONS, after=("prepare",)) as cfg:
        for text in evaluation_advice(cfg):
            note(text)
        for name, folder in MODELS.items():
            if folder is not None and (folder / CARD).is_file():
                check_files(folder, name)
        resolved = resolve(cfg)
        FOLDER.mkdir(exist_ok=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        prompts, source = tables.read_prompts("evaluation"), Source.read(tables.BASE)
        for completions in (1, cfg.evaluate.samples_per_problem):
            demand(plan_sampling(cfg, resolved, source, prompts, completions=completions))
        files = {name: _kept(cfg, start) for name, start in MODELS.items() if start is None or has_weights(start)}
        if missing := {name: file for name, file in files.items() if not _is_whole(file)}:
            answers = {name: _answers_file(cfg, MODELS[name]) for name in missing}
            if unasked := {name: file for name, file in answers.items() if not _is_whole(file)}:
                _ask(cfg, resolved, source, unasked, prompts)
            _judge(cfg, answers, missing, [prompt.problem for prompt in prompts])
        metrics: dict[str, Any] = dict.fromkeys(MODELS)
        for name, file in files.items():
            table = _read(file)
            table.to_parquet(FOLDER / f"{name}.parquet")
            metrics[name] = summary(table)
            print(
                f"{name}: greedy {metrics[name]['accuracy']:.3f}, mean@k {metrics[name]['mean_at_k']:.3f}", flush=True
            )
        write_json(Path("metrics/evaluate.json"), metrics)
        card = {"precision": precision(cfg, resolved)}
        write_json(FOLDER / "card.json", provenance(cfg, device=device_name(resolved.device)) | card)
        for other in set(KEPT.iterdir()) - set(files.values()):  # of other weights, settings or code
            other.unlink()


def _kept(cfg: Config, start: Path | None) -> Path:
    """Where the table of these weights is kept, made on these problems, with these settings, by this code."""
    return KEPT / f"{_key(cfg, start, 'compute', 'model', 'rollout', 'verifiers')}.parquet"


def _answers_file(cfg: Config, start: Path | None) -> Path:
    """Where their answers are kept until they are judged, under whatever verifier."""
    return KEPT / f"{_key(cfg, start, 'compute', 'model', 'rollout')}.answers"


def _key(cfg: Config, start: Path | None, *sections: str) -> str:
    weights = hash_files(*sorted((start or tables.BASE).glob("*.safetensors")))
    settings = [
        cfg.digest(*sections),
        own_verifier_hash(cfg.verifiers.answer) if "verifiers" in sections else "",
        kept_layers(cfg),
        cfg.evaluate.samples_per_problem,
        cfg.evaluate.temperature,
    ]
    problems = hash_files(tables.FOLDER / "evaluation.parquet", tables.BASE)
    made_by = [code_hash("evaluate"), computing_versions()]
    return hashlib.sha256(json.dumps([weights, problems, made_by, settings]).encode()).hexdigest()


def _ask(cfg: Config, resolved: Resolved, source: Source, files: dict[str, Path], prompts: Sequence[Prompt]) -> None:
    """Write the answers of the models named: one engine for all of them, each one's weights in turn."""
    tokenizer, k = load_tokenizer(tables.BASE), cfg.evaluate.samples_per_problem
    plan = plan_sampling(cfg, resolved, source, prompts, completions=k)
    with closing(open_sampler(cfg, resolved, source, tokenizer, plan, temperature=cfg.evaluate.temperature)) as sampler:
        sampler.resume()
        for name, file in files.items():
            policy = open_policy(resolved, source, tokenizer, sampler, start=MODELS[name], kept=kept_layers(cfg))
            sampler.sync(policy)
            with progress(f"evaluate {name}", 2 * len(prompts)) as show:
                greedy = _answers(sampler.at(0.0), prompts, 1, cfg.compute.seed, show)
                sampled = _answers(sampler, prompts, k, cfg.compute.seed, lambda done: show(len(prompts) + done))
            _write(answers_table(greedy, sampled), file)


def _judge(cfg: Config, answers: dict[str, Path], files: dict[str, Path], problems: Sequence[Problem]) -> None:
    """Write the table of each model. Raises UserError, after all are tried, for those that lack a verdict."""
    faults = []
    with open_verifier(cfg.verifiers) as verify:
        for name, file in files.items():
            try:
                _write(judged(_read(answers[name]), problems, tags_of(cfg.model.template), verify), file)
                answers[name].unlink()
            except UserError as fault:
                faults.append(f"{name}: {fault}")
    if faults:
        raise UserError(
            "\n".join(
                [*faults, "All answers are kept: fix the cause and run the same command again to judge what is left"]
            )
        )


def _write(table: pd.DataFrame, file: Path) -> None:
    """Keep the table, behind its SHA-256."""
    data = table.to_parquet()
    writing = file.with_suffix(".writing")
    writing.write_bytes(hashlib.sha256(data).digest() + data)
    writing.rename(file)


def _is_whole(file: Path) -> bool:
    """Whether a table is kept and its SHA-256 is right; a damaged one is made again, with a warning."""
    if not file.exists():
        return False
    content = file.read_bytes()
    is_whole = hashlib.sha256(content[DIGEST_BYTES:]).digest() == content[:DIGEST_BYTES]
    if not is_whole:
        warn(f"{file} is damaged: what it held is made again")
    return is_whole


def _read(file: Path) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(file.read_bytes()[DIGEST_BYTES:]))


def _answers(
    sampler: Sampler, prompts: Sequence[Prompt], count: int, seed: int, show: Callable[[int], None]
) -> list[Group]:
    groups: list[Group] = []
    for group in sampler.sample(prompts, count, seed=(seed, -1)):
        groups.append(group)
        show(len(groups))
    return [groups[g] for g in places(groups, prompts)]
