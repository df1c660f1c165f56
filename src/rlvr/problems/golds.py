"""Judge the golds of the data before anything is trained on them.

The verifier reads each gold, and the problem's solution (the answer as a model should write it) must be right for it.
What an isolated verifier says is kept by content, so that it judges only new rows when the data is prepared again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import rlvr.verifiers
from rlvr.runtime.files import json_sha256
from rlvr.runtime.messages import warn
from rlvr.runtime.progress import progress
from rlvr.types import Problem, UserError
from rlvr.verifiers.json_formats import CHECKED, unchecked
from rlvr.verifiers.verdict import WORKER
from rlvr.verifiers.verify import Asked, RunningVerifier, VerifierSettings, make_verifier, open_workers, settle

KEPT = Path(".checkpoints/golds")
SHOWN = 10  # bad golds in a message
KEY_LETTERS = 32  # of the hash of a gold, or of a verifier


def bad_golds(settings: VerifierSettings, name: str, problems: Sequence[Problem]) -> dict[str, str]:
    """Why verifier `name` cannot use a gold, by the id of its problem; good golds have no entry.

    Raises UserError when the verifier cannot run on this machine.
    """
    with open_workers(settings) as workers:
        verifier = make_verifier(settings, name, workers)
        if verifier.verifier.isolated:
            reasons = _kept_reasons(verifier, problems)
        else:
            reasons = [_reason(verifier, _asked(verifier, problem)) for problem in problems]
    return {problem.id: reason for problem, reason in zip(problems, reasons, strict=True) if reason}


def refusal(verifier: str, bad: Mapping[str, str], *, count: int, remedy: str = "") -> UserError:
    """The error that names the rows whose golds `verifier` (a setting with its value) cannot use, of `count` golds."""
    shown = [f"  {place}: {reason}" for place, reason in list(bad.items())[:SHOWN]]
    more = [f"  and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
    lines = [f"{verifier} cannot use {len(bad)} of {count} golds:", *shown, *more]
    lines.append(f"Fix or filter these rows, or choose another verifier (text compares words: docs/rewards.md){remedy}")
    return UserError("\n".join(lines))


def warn_of_formats(verifier: str, problems: Iterable[Problem]) -> None:
    """Warn of formats in the JSON Schemas of the golds that the verifier json_schema does not check."""
    if verifier != "json_schema":
        return
    formats = sorted({form for gold in {g for problem in problems for g in problem.golds} for form in unchecked(gold)})
    if formats:
        warn(
            f"verifier json_schema does not check the format {', '.join(formats)}: any text passes. It checks "
            f"{', '.join(CHECKED)}; write another as a pattern"
        )


def _asked(verifier: RunningVerifier, problem: Problem) -> list[tuple[str, Asked]]:
    """The verdicts on the golds and, where there is one, on the solution."""
    golds: list[tuple[str, Asked]] = [(f"the gold {gold!r}", verifier.ask_gold(gold)) for gold in problem.golds]
    return [*golds, ("the solution", verifier.ask(problem.solution, problem))] if problem.solution else golds


def _reason(verifier: RunningVerifier, verdicts: Iterable[tuple[str, Asked]]) -> str:
    """What is wrong with a gold; empty if nothing is. Raises UserError if it could not be judged."""
    for what, promise in verdicts:
        verdict = settle(promise)
        if verdict.cause == WORKER:
            raise UserError(f"the golds cannot be judged by the verifier {verifier.name}: {verdict.message}")
        if not verdict.is_right:
            return verdict.message if verdict.is_fault else f"{what} is {verdict}: {verdict.message}".rstrip(": ")
    return ""


def _kept_reasons(verifier: RunningVerifier, problems: Sequence[Problem]) -> list[str]:
    """The reasons of an isolated verifier: those kept from earlier, and new ones as they come."""
    file = KEPT / f"{re.sub(r'[^a-z_]+', '-', verifier.name)}-{_meaning(verifier)}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    reasons = dict(map(json.loads, file.read_text(encoding="utf-8").splitlines())) if file.exists() else {}
    keys = [
        json_sha256([problem.golds, problem.solution, problem.question if problem.solution else ""])[:KEY_LETTERS]
        for problem in problems
    ]
    new = {key: problem for key, problem in zip(keys, problems, strict=True) if key not in reasons}
    verdicts = {key: _asked(verifier, problem) for key, problem in new.items()}
    with closing(file.open("a", encoding="utf-8")) as writing, progress("golds", len(new)) as show:
        for done, (key, promises) in enumerate(verdicts.items(), start=1):
            reasons[key] = _reason(verifier, promises)
            writing.write(json.dumps([key, reasons[key]]) + "\n")
            writing.flush()
            show(done)
    return [reasons[key] for key in keys]


def _meaning(verifier: RunningVerifier) -> str:
    """A hash of what decides a verdict besides answer and gold: options and code."""
    folders = [Path(rlvr.verifiers.__file__).parent]
    if "path" in verifier.options:  # a user's verifier
        folders.append(Path(verifier.options["path"]).parent)
    code = [file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.rglob("*.py"))]
    return json_sha256([verifier.options, verifier.cpu_seconds, code])[:KEY_LETTERS]
