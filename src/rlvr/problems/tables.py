"""Write and read the tables of prepared data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rlvr.types import Message, Problem, Prompt, UserError

FOLDER = Path("data/prepared")
AS_JSON = ("columns", "accepted", "context")
MAKE_AGAIN = f"delete {FOLDER} and run the same command again, which makes it, or `rlvr prepare`"
BASE = FOLDER / "base"  # the model before any training: tokenizer, and the weights of a scratch model


def write_table(path: Path, rows: list[tuple[Problem, dict[str, Any]]]) -> None:
    """One row per problem: its fields, some as JSON, then prompt, prompt_tokens, target, target_tokens."""
    pd.DataFrame(
        [
            asdict(problem) | {name: json.dumps(getattr(problem, name)) for name in AS_JSON} | encoded
            for problem, encoded in rows
        ]
    ).to_parquet(path, index=False)


def to_problem(row: Mapping[str, Any]) -> Problem:
    """The problem in a row of a prepared table."""
    texts = {name: row[name] for name in ("id", "question", "answer", "working", "solution")}
    columns, accepted, context = (json.loads(row[name]) for name in AS_JSON)
    return Problem(level=int(row["level"]), columns=columns, accepted=tuple(accepted), context=tuple(context), **texts)


def read_table(split: str) -> pd.DataFrame:
    """The prepared table of a split. Raises UserError where prepare has not made it, or it is damaged."""
    file = FOLDER / f"{split}.parquet"
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{file} cannot be read ({error}): {MAKE_AGAIN}") from None


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
    row = read_table("evaluation").iloc[0]
    own = [message for message in json.loads(row["context"]) if message["role"] != "system"]
    turns = [dict(message) for message in row["messages"] if message["role"] != "system"]
    return turns[: len(turns) - len(own) - 1]
