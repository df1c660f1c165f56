"""Section prepare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rlvr.config.base import Name, Positive, Section


class Arithmetic(Section):
    min_level: Annotated[int, Field(ge=1, le=9)]
    max_level: Annotated[int, Field(ge=1, le=9)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_level > self.max_level:
            raise ValueError(f"min_level {self.min_level} must not be above max_level {self.max_level}")
        return self


class Gsm8k(Section):
    source: Name
    revision: str | None
    max_steps: Positive | None


class Columns(Section):
    question: Name
    answer: Name
    working: Name | None
    solution: Name | None
    level: Name | None


class Records(Section):
    source: Name
    subset: str | None
    split: Name
    revision: str | None
    evaluation_source: Name | None
    evaluation_split: Name | None
    evaluation_revision: str | None
    columns: Columns
    filters: dict[str, dict[Literal["min", "max", "in", "not_empty"], bool | float | list[bool | float | str]]]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.evaluation_source == self.source and self.evaluation_split in (None, self.split):
            raise ValueError(
                f"evaluation_source {self.source!r} is the source itself: give other data, or null to hold out a part"
            )
        _check_filters(self.filters)
        return self


class Prepare(Section):
    task: Literal["arithmetic", "gsm8k", "records"]
    train_problems: Positive | None
    sft_problems: Annotated[int, Field(ge=0)]
    dev_problems: Annotated[int, Field(ge=0)]
    evaluation_problems: Positive
    max_prompt_tokens: Positive
    few_shot: Annotated[int, Field(ge=0)]
    long_prompts: Literal["drop", "truncate"]
    bad_golds: Literal["refuse", "drop"]
    arithmetic: Arithmetic
    gsm8k: Gsm8k
    records: Records

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.task == "arithmetic" and self.train_problems is None:
            raise ValueError(
                "train_problems null means all that are left, and task arithmetic has no end of them: "
                "give a number, for example 4000"
            )
        worked = self.sft_problems or self.few_shot
        if self.task == "records" and worked and self.records.columns.working is None:
            raise ValueError(
                f"sft_problems {self.sft_problems} and few_shot {self.few_shot} need worked solutions: name their "
                "column in prepare.records.columns.working, or set both to 0 and sft.enabled to false"
            )
        return self


def _check_filters(filters: Mapping[str, Mapping[Any, Any]]) -> None:
    """Raise ValueError for a condition whose value has the wrong type."""
    for column, conditions in filters.items():
        for name, value in conditions.items():
            fits = {"in": type(value) is list, "not_empty": value is True}.get(name, type(value) in (int, float))
            if not fits:
                raise ValueError(
                    f"filters.{column}.{name}: {value!r} has the wrong type: min and max take a number, in takes a "
                    "list, not_empty takes true"
                )
