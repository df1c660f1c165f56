"""A stage is killed at a file operation, some of them twice: the next run loses nothing and writes the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torture import forks
from torture.case import Case, check_silent, spread, tail
from torture.states import Chain

LEAST = 100
SHARE = {"sft": 0.3, "grpo": 0.45, "evaluate": 0.25}


def cases(chain: Chain, count: int) -> Iterator[Case]:
    for stage, share in SHARE.items():
        operations = chain.operations[stage]
        chosen = spread(range(1, len(operations) + 1), max(1, round(count * share)))
        for i, at in enumerate(chosen):
            kills = (at, 1 + 13 * i % len(operations)) if i % 4 == 3 else (at,)  # every fourth run is killed twice
            where = ", then ".join(f"at operation {k} ({operations[k - 1]})" for k in kills)
            yield Case(f"{stage} killed {where}", partial(_kill, chain, stage, kills))


def _kill(chain: Chain, stage: str, kills: tuple[int, ...], folder: Path) -> None:
    here = forks.copy(chain.before[stage], folder / "run")
    for at in kills:
        ended = forks.run(here, stage, acts={at: forks.die})
        check_silent(ended.text)
        assert ended.code in (0, -9), f"ended with {ended.code}:\n{tail(ended.text)}"  # 0: a resumed run does less
    chain.check_resumes(here, stage)
