"""Write and read the tables of prepared data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rlvr.chat import Message
from rlvr.types import Problem, Prompt

FOLDER = Path("data/prepared")
BASE = FOLDER / "base"  # the model before any training: tokenizer, and the weights of a scratch model


def write_table(path: Path, rows: list[tuple[Problem, dict[str, Any]]]) -> None:
    """One row per problem: its fields (columns as JSON), then prompt, prompt_tokens, target, target_tokens."""
    pd.DataFrame(
        [asdict(problem) | {"columns": json.dumps(problem.columns)} | encoded for problem, encoded in rows]
    ).to_parquet(path, index=False)


def to_problem(row: Mapping[str, Any]) -> Problem:
    """The problem in a row of a prepared table."""
    texts = {name: row[name] for name in ("id", "question", "answer", "working", "solution")}
    return Problem(level=int(row["level"]), columns=json.loads(row["columns"]), **texts)


def read_table(split: str) -> pd.DataFrame:
    return pd.read_parquet(FOLDER / f"{split}.parquet")


def read_examples(split: str) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """Prompt tokens and target tokens of each problem of a split; targets include the end of sequence."""
    table = read_table(split)
    return [
        (tuple(prompt.tolist()), torch.tensor(target.tolist()))
        for prompt, target in zip(table["prompt_tokens"], table["target_tokens"], strict=True)
    ]


def read_prompts(split: str) -> list[Prompt]:
    """The prompts of a split (train, sft, dev or evaluation), in order."""
    rows: list[dict[str, Any]] = read_table(split).to_dict("records")  # type: ignore[assignment]
    return [
        Prompt(
            to_problem(row),
            tuple(int(token) for token in row["prompt_tokens"]),
        )
        for row in rows
    ]


def read_earlier() -> list[Message]:
    """The worked examples that every prompt shows as earlier turns; empty with `prepare.few_shot: 0`."""
    chat = [dict(message) for message in read_table("evaluation")["messages"].iloc[0]]
    return [message for message in chat[:-1] if message["role"] != "system"]
