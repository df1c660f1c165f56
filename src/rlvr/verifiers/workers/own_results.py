"""What a user's function returned: awaited, listed, and read as points."""

from __future__ import annotations

import inspect
import itertools
import math
import numbers
import traceback
from collections.abc import Iterable, Mapping, Sequence, Set
from decimal import Decimal
from pathlib import Path
from typing import Any

SHOWN = 60  # characters of a value in a message


def awaited(results: Sequence[Any]) -> list[Any]:
    """The results, awaited at once where they are to be; an exception in place of the result that raised it."""
    if not any(inspect.isawaitable(result) for result in results):
        return list(results)

    import asyncio  # noqa: PLC0415  (slow to import, rarely needed)

    async def gathered() -> list[Any]:
        waiting = [result for result in results if inspect.isawaitable(result)]
        done = iter(await asyncio.gather(*waiting, return_exceptions=True))
        return [next(done) if inspect.isawaitable(result) else result for result in results]

    return asyncio.run(gathered())


def listed(result: Any, count: int) -> Any:
    """A list of the values of a sequence, an array [G] or [G, 1], a series or a generator; anything else as it is."""
    values = result.to_numpy() if hasattr(result, "to_numpy") else result
    if hasattr(values, "tolist"):
        rows = values.tolist()
        is_column = isinstance(rows, list) and all(isinstance(row, list) and len(row) == 1 for row in rows)
        return [row[0] for row in rows] if is_column else rows
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping | Set):
        return list(itertools.islice(values, count + 1))
    return result


def counted(values: Any, count: int, where: str) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError(f"{where} returned {shown(values)}: the batch form returns a list of {count} numbers or Nones")
    if len(values) != count:
        size = f"more than {count}" if len(values) > count else str(len(values))
        raise ValueError(f"{where} returned {size} values for {count} completions: return one for each")
    return values


def points_of(result: Any, where: str) -> tuple[float | None, str]:
    """The points in `result`, and a message where there are none: then they are NaN."""
    if isinstance(result, BaseException):
        return math.nan, f"{where}: {described(result, where.partition(':')[0])}"
    value = result.tolist() if hasattr(result, "tolist") else result  # arrays, without importing numpy or torch
    if isinstance(value, list) and value is not result and len(value) == 1:
        value = value[0]
    if value is None:
        return None, ""
    if not isinstance(value, numbers.Real | Decimal):
        return (
            math.nan,
            f"{where} returned {shown(result)} for a completion: return a number, or None if it does not apply",
        )
    try:
        points = float(value)
    except (OverflowError, ValueError):  # ValueError: a signaling NaN
        points = math.inf
    if not math.isfinite(points):
        return math.nan, f"{where} returned {shown(result)} for a completion: points must be finite numbers"
    return points, ""


def shown(result: Any) -> str:
    if isinstance(result, int):  # an int of 5,000 digits has no repr
        return f"an int of {result.bit_length()} bits"
    text = repr(result)
    return f"{text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'} ({type(result).__name__})"


def described(error: BaseException, path: str) -> str:
    """Type, text and place of an error: the last line of the user's file that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    place = f" ({Path(path).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:300]}{place[:200]}"
