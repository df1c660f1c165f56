"""`rlvr check --data`: read the table, judge its golds and deal its rows, before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rlvr.config import Config
from rlvr.config.advice import FEW_HELD_OUT, FEW_PROBLEMS
from rlvr.problems.selection import Split
from rlvr.runtime.messages import note
from rlvr.runtime.printing import print_table
from rlvr.tasks import TASKS
from rlvr.types import Problem, UserError
from rlvr.verifiers.number import parse
from rlvr.verifiers.number.comparison import DECIMAL_COMMA

FOR_NUMBERS = ("answer", "number", "proximity_smooth", "is_integer", "number_detected")  # rewards that want a number
WHY_MORE = {"train": "teach more than the same questions again", "evaluation": "give intervals that can show a change"}
WORDS = "docs/data.md#answers-in-words"


def main(cfg: Config) -> None:
    """Print what `prepare` would make of the data. Raises UserError for what would stop it, with the remedy."""
    pools = TASKS[cfg.prepare.task](cfg.prepare, cfg.compute.seed)
    problems = pools.problems()
    left_out = ", ".join(f"{count} {reason}" for reason, count in pools.origin.get("left_out", {}).items() if count)
    print(f"{pools.origin.get('source', cfg.prepare.task)}: {len(problems)} problems; left out: {left_out or 'none'}")
    for warning in pools.origin["warnings"]:
        note(warning)
    _check_kind(cfg, problems)
    print("reading the tokenizer, judging the answers ...", flush=True)
    from rlvr.problems.prepare import deal, scratch_tokenizer  # noqa: PLC0415  (imports torch, after faults of the table)

    tokenizer = scratch_tokenizer(cfg, problems) if cfg.model.source == "scratch" else _tokenizer(cfg)
    _, splits, _ = deal(cfg, tokenizer, pools)
    print(f"verifiers.answer {cfg.verifiers.answer} reads the answers")
    print_table(["split", "rows", "prompt tokens"], [_row(name, split) for name, split in splits.items()])
    for name, split in splits.items():
        if split.truncated or split.reasons():
            print(f"{name}: {split.truncated} questions cut; left out: {split.reasons() or 'none'}")
    _advise(cfg, problems, num_train=len(splits["train"].rows))
    for name, few in (("train", FEW_PROBLEMS), ("evaluation", FEW_HELD_OUT)):
        if (rows := len(splits[name].rows)) < few:
            note(f"rows in {name}: {rows}, which is few; {few} or more {WHY_MORE[name]}")


def _tokenizer(cfg: Config) -> object:
    from rlvr.model.source import open_tokenizer  # noqa: PLC0415
    from rlvr.problems.prepare import with_template  # noqa: PLC0415

    with TemporaryDirectory() as folder:
        return with_template(cfg, open_tokenizer(cfg.model.source, cfg.model.revision, Path(folder)))


def _is_decimal(answer: str) -> bool:
    """Whether it is a number with a decimal comma, for which the verifier has its own message."""
    return DECIMAL_COMMA.fullmatch(answer.strip()) is not None


def _check_kind(cfg: Config, problems: Sequence[Problem]) -> None:
    """Raise UserError where most answers are words, and the verifier reads numbers."""
    words = [
        problem.answer for problem in problems if parse(problem.answer) is None and not _is_decimal(problem.answer)
    ]
    if cfg.verifiers.answer == "number" and 2 * len(words) > len(problems):
        raise UserError(
            f"{len(words)} of {len(problems)} answers are words, such as {words[0][:60]!r}, and the verifier reads "
            f"numbers: set verifiers.answer: text (for formulas math, for the letters of a choice choice), see {WORDS}"
        )


def _advise(cfg: Config, problems: Sequence[Problem], *, num_train: int) -> None:
    """Raises UserError, as the stage grpo would, for minibatches that so few problems cannot be divided into."""
    from rlvr.stages.grpo import with_distinct_prompts  # noqa: PLC0415

    with_distinct_prompts(cfg, num_train)
    numeric = sum(parse(problem.answer) is not None for problem in problems)
    rewards = [
        name
        for name, reward in cfg.rewards.items()
        if reward.weight and not reward.python and (reward.function or name) in FOR_NUMBERS
    ]
    if cfg.verifiers.answer == "number" or not rewards:
        return
    if numeric == 0:
        note(f"rewards {', '.join(rewards)} grade numbers, and no answer is one: use a rubric for words, see {WORDS}")
    elif numeric == len(problems) and cfg.verifiers.answer in ("text", "exact"):
        note("all answers are numbers: verifiers.answer number reads them in any notation")


def _row(name: str, split: Split) -> list[str]:
    lengths = [len(columns["prompt_tokens"]) for _, columns in split.rows]
    tokens = f"{min(lengths)} to {max(lengths)}, mean {sum(lengths) / len(lengths):.0f}"
    return [name, str(len(split.rows)), tokens]
