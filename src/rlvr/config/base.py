"""The base class of every section of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

DAY_SECONDS = 86_400.0


def _within_a_day(seconds: float) -> float:
    if seconds > DAY_SECONDS:
        raise ValueError(f"{seconds:g} is above {DAY_SECONDS:.0f} seconds, a day: write a limit that can be waited for")
    return seconds


Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(gt=0.0), AfterValidator(_within_a_day)]  # a time limit
Name = Annotated[str, Field(min_length=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
