"""Read the files of the report into one value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr.types import UserError

MODELS = ("base", "sft", "grpo")

# Columns of a log without a single step.
LOG_COLUMNS = (
    "step", "loss", "accuracy", "reward/mean", "reward/std", "advantage/zero_std_groups", "completion/mean_length",
    "completion/max_length", "completion/truncated", "policy/entropy", "policy/clip_low", "policy/clip_high",
    "grad_norm", "learning_rate",
)  # fmt: skip
SFT_COLUMNS = ("step", "steps", "loss", "accuracy", "format_rate")
COMPLETION_COLUMNS = ("step", "problem_id", "correct", "reward")


@dataclass(frozen=True)
class Inputs:
    """All inputs of the report.

    `log` has one row per step with the names of train.jsonl. `sft_log` has one row per check of the dev answers in the
    pre-finetune (`steps` taken until then; empty if that stage is off). `completions` has one row per logged
    completion. `evaluations` and `summaries` (metrics/evaluate.json) hold the models that exist, in the order of
    MODELS; the rows of all evaluations are the same problems. `account` is logs/memory.json. `params` are the settings
    that the cards of all artifacts agree on.
    """

    log: pd.DataFrame
    sft_log: pd.DataFrame
    completions: pd.DataFrame
    evaluations: dict[str, pd.DataFrame]
    summaries: dict[str, dict[str, Any]]
    sft: dict[str, Any]
    train: dict[str, Any]
    memory: dict[str, Any]
    account: dict[str, Any]
    data_card: dict[str, Any]
    policy_card: dict[str, Any]
    params: dict[str, Any]

    @property
    def before(self) -> str:
        """The model that GRPO starts from: the pre-finetuned one, or the base if that stage is off."""
        return "sft" if "sft" in self.summaries else "base"


def load_inputs(root: Path) -> Inputs:
    """Read the outputs of the other stages under `root`. Raises UserError if one is missing or does not match."""
    metrics = _read_json(root / "metrics/evaluate.json")
    summaries = {name: metrics[name] for name in MODELS if metrics.get(name) is not None}
    for needed in ("base", "grpo"):
        if needed not in summaries:
            raise UserError(f"metrics/evaluate.json holds no model {needed!r}: run the stage evaluate again")
    policy_card = _read_json(root / "models/grpo/card.json")
    data_card = _read_json(root / "data/prepared/card.json")
    cards = [data_card, _read_json(root / "models/sft/card.json"), _read_json(root / "evaluations/card.json")]
    return Inputs(
        log=_read_log(root / "logs/train.jsonl", LOG_COLUMNS),
        sft_log=_read_log(root / "logs/sft.jsonl", SFT_COLUMNS),
        completions=_read_completions(root / "logs/completions"),
        evaluations=_read_evaluations(root / "evaluations", summaries),
        summaries=summaries,
        sft=_read_json(root / "metrics/sft.json"),
        train=_read_json(root / "metrics/train.json"),
        memory=_read_json(root / "metrics/memory.json"),
        account=_read_json(root / "logs/memory.json"),
        data_card=data_card,
        policy_card=policy_card,
        params={key: value for card in [*cards, policy_card] for key, value in card.get("params", {}).items()},
    )


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(_existing(path).read_text(encoding="utf-8"))
    return value


def _read_log(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    records = [json.loads(line) for line in _existing(path).read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame(records) if records else pd.DataFrame(columns=list(columns), dtype=float)


def _read_completions(folder: Path) -> pd.DataFrame:
    tables = [pd.read_parquet(path) for path in sorted(_existing(folder).glob("*.parquet"))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COMPLETION_COLUMNS))


def _read_evaluations(folder: Path, names: Iterable[str]) -> dict[str, pd.DataFrame]:
    tables = {name: pd.read_parquet(_existing(folder / f"{name}.parquet")) for name in names}
    for name, table in tables.items():
        if list(table["id"]) != list(tables["grpo"]["id"]):
            raise UserError(
                f"evaluations/{name}.parquet and evaluations/grpo.parquet must hold the same problems in the same "
                f"order; found {len(table)} and {len(tables['grpo'])} that differ: run the stage evaluate again"
            )
    return tables


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist: run `dvc repro`, which makes everything that the report reads")
    return path
