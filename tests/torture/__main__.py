"""Provoke faults in a tiny pipeline, and print for each kind how many were tried, held and failed.

`PYTHONPATH=src:tests python -m torture [--only kills,damages] [--cases N] [--write]`. Exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlvr.runtime.machine import speak_utf8
from support.clone import ROOT
from torture import concurrency, damages, disks, edits, forks, kills, signals, states
from torture.case import Case, Skipped

RESULT = ROOT / "benchmarks/results/cpu/torture.json"
FORKED: dict[str, Any] = {"kills": kills, "damages": damages, "disks": disks, "edits": edits}
ENGINES: dict[str, Any] = {"signals": signals, "concurrency": concurrency}


@dataclass
class Tally:
    """What happened in the cases of one kind."""

    kind: str
    tried: int = 0
    held: int = 0
    skipped: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGHUP):  # a shell lets what it starts in the background ignore them
        signal.signal(number, signal.default_int_handler)
    with TemporaryDirectory(prefix="torture-") as folder:
        tallies = [_try(kind, cases, Path(folder)) for kind, cases in _chosen(options, Path(folder))]
    print(_table(tallies))
    if options.write:
        _write(tallies)
    return int(any(tally.failures for tally in tallies))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help=f"kinds, of {','.join(FORKED | ENGINES)} (default: all)")
    parser.add_argument("--cases", type=int, help="cases of each kind (default: 100 kills, 30 signals, ...)")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    return parser


def _chosen(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[Case]]]:
    only = options.only.split(",") if options.only else [*FORKED, *ENGINES]
    if unknown := set(only) - (FORKED | ENGINES).keys():
        raise SystemExit(f"no such kind: {', '.join(sorted(unknown))}")
    if forked := [kind for kind in FORKED if kind in only]:
        forks.warm()
        chain = states.chain(folder / "chain")
        for kind in forked:
            yield kind, list(FORKED[kind].cases(chain, options.cases or FORKED[kind].LEAST))
    if engines := [kind for kind in ENGINES if kind in only]:
        clones = states.clones(folder / "clones")
        for kind in engines:
            yield kind, list(ENGINES[kind].cases(clones, options.cases or ENGINES[kind].LEAST))


def _try(kind: str, cases: Sequence[Case], folder: Path) -> Tally:
    tally, started = Tally(kind), time.monotonic()
    for i, case in enumerate(cases, 1):
        print(f"{kind} {i}/{len(cases)}  {case.what}", flush=True)
        place = folder / "case"
        place.mkdir()
        tally.tried += 1
        try:
            case.attempt(place)
            tally.held += 1
        except Skipped as reason:
            tally.skipped.append(f"{case.what}: {reason}")
        except Exception as failure:
            text = str(failure) if isinstance(failure, AssertionError) else repr(failure)
            tally.failures.append({"what": case.what, "happened": text})
            print(f"FAILED  {text}", flush=True)
        shutil.rmtree(place)
    tally.seconds = time.monotonic() - started
    return tally


def _table(tallies: Sequence[Tally]) -> str:
    lines = [f"{'kind':<12} {'tried':>6} {'held':>6} {'failed':>6} {'skipped':>7} {'seconds':>8}"]
    for tally in tallies:
        lines.append(
            f"{tally.kind:<12} {tally.tried:>6} {tally.held:>6} {len(tally.failures):>6} {len(tally.skipped):>7} "
            f"{tally.seconds:>8.0f}"
        )
        lines += [f"  skipped: {text}" for text in tally.skipped]
        for failure in tally.failures:
            lines += [f"  FAILED: {failure['what']}", *(f"    {line}" for line in failure["happened"].splitlines())]
    return "\n".join(lines)


def _write(tallies: Sequence[Tally]) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from recipe import write_result  # noqa: PLC0415

    sys.argv[0] = "-m torture"  # the command that is recorded, without a path of this machine
    write_result(RESULT, [asdict(tally) for tally in tallies])


if __name__ == "__main__":
    speak_utf8()
    sys.exit(main())
