"""`rlvr rewards`: the rewards of params.yaml on completions from a file, and on some written to fool them."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rlvr.chat import tags_of
from rlvr.commands.doctor import HONEST, Trick, examine, findings, is_conclusive
from rlvr.commands.trial import CompletionGroup, group_by_problem, spelled, summaries, totals, without_signal
from rlvr.problems import tables as prepared
from rlvr.rewards import Scorer, Scores, open_scorer
from rlvr.runtime.files import check_pulled
from rlvr.runtime.messages import note, warn
from rlvr.runtime.printing import print_table
from rlvr.stages.begin import stage
from rlvr.tasks.table import KINDS, read_local
from rlvr.types import Problem, UserError

SECTIONS = ("compute", "model", "rollout", "rewards", "verifiers")
SPLITS = ("train", "evaluation", "dev", "sft")
COMPLETIONS = Path("logs/completions")


def try_file(file: Path, limit: int | None) -> bool:
    """Print the points of each completion in `file`, then a summary of each reward function.

    Returns whether any completion could be scored. Raises UserError.
    """
    with stage("rewards try", SECTIONS) as cfg:
        groups = _read_groups(file, limit)
        with open_scorer(cfg.rewards, cfg.verifiers, tags_of(cfg.model.template)) as scorer:
            for text in scorer.check_columns([problem for problem, _ in groups]):
                note(text)
            before = time.monotonic()
            scores = _scores(scorer, groups)
            seconds = time.monotonic() - before
    _print_completions(groups, scores)
    print()
    _print_functions(scores)
    sums = totals(scores)
    count, unscorable = sum(map(len, sums)), sum(math.isnan(value) for group in sums for value in group)
    print(f"\n{count} completions of {len(sums)} questions in {seconds:.2f} s ({count / seconds:,.0f} a second)")
    right = sum(map(sum, scores.correct))
    print(f"right: {right} ({right / count:.1%}); unscorable (scoring failed): {unscorable}")
    print(_signal(sums))
    for message in scores.messages:
        note(message)
    if unscorable == count:
        warn("no completion could be scored: fix what the notes above say")
    return unscorable < count


def doctor(num_problems: int) -> bool:
    """Print the scores of made-up completions of the first training problems; return whether right answers score best.

    Raises UserError when there are no prepared problems.
    """
    with stage("rewards doctor", SECTIONS) as cfg:
        problems = _problems(("train",))[:num_problems]
        if not problems:
            raise UserError("no prepared problems: run `dvc repro prepare`")
        tags, most = tags_of(cfg.model.template), cfg.rollout.max_completion_tokens
        with open_scorer(cfg.rewards, cfg.verifiers, tags) as scorer:
            for text in scorer.check_columns(problems):
                note(text)
            tricks = examine(scorer, problems, tags, max_completion_tokens=most)
            tables = sorted(COMPLETIONS.glob("*.parquet"))
            sums = totals(_scores(scorer, _read_groups(tables[-1], None))) if tables else None
    _print_tricks(tricks)
    print()
    all_findings = findings(tricks)
    for finding in all_findings:
        print(f"{'ACCEPTED' if finding.is_accepted else 'look at '}  {finding.message}")
    is_sound = is_conclusive(tricks) and not any(finding.is_accepted for finding in all_findings)
    if is_sound:
        print(f"none is accepted or worth as much as the right answer, on {len(problems)} problems")
    elif not is_conclusive(tricks):
        print(f"no result: {HONEST} is not judged right with a score, so there is nothing to compare with")
    if sums is None:
        print(f"for the share of questions without signal, run `dvc repro grpo` first: it writes {COMPLETIONS}")
    else:
        print(f"{tables[-1]}: {_signal(sums)}")
    return is_sound


def _problems(splits: Sequence[str]) -> list[Problem]:
    splits_on_disk = [split for split in splits if (prepared.FOLDER / f"{split}.parquet").is_file()]
    return [
        prepared.to_problem({str(name): value for name, value in row.items()})
        for split in splits_on_disk
        for row in prepared.read_table(split).to_dict("records")
    ]


def _read_groups(file: Path, limit: int | None) -> list[CompletionGroup]:
    check_pulled(file)
    if not file.exists():
        raise UserError(
            f"{file} does not exist: give a table ({KINDS}) with a completion in each row, and the id of its problem "
            f"or its question and answer; `dvc repro grpo` writes such tables to {COMPLETIONS}"
        )
    rows = read_local(file, row="completion")[:limit]
    return group_by_problem(rows, _problems(SPLITS), file=str(file), count_tokens=_token_counter())


def _token_counter() -> Callable[[str], int]:
    """A function that counts tokens, the end of sequence included; it counts words if there is no tokenizer yet."""
    if not prepared.BASE.is_dir():
        return lambda text: len(text.split()) + 1
    from rlvr.model.policy import load_tokenizer  # noqa: PLC0415

    tokenizer = load_tokenizer(prepared.BASE)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


def _scores(scorer: Scorer, groups: Sequence[CompletionGroup]) -> Scores:
    for problem, answered in groups:
        scorer.submit(problem, answered)
    return scorer.finish()


def _print_completions(groups: Sequence[CompletionGroup], scores: Scores) -> None:
    names = [f"{name} × {weight:g}" for name, weight in zip(scores.names, scores.weights, strict=True)]
    rows = [
        [problem.id, completion.text, spelled(verdict), *map(_number, points), _number(total)]
        for (problem, answered), verdicts, group, sums in zip(
            groups, scores.verdicts, scores.points, totals(scores), strict=True
        )
        for completion, verdict, points, total in zip(answered, verdicts, group, sums, strict=True)
    ]
    print_table(["problem", "completion", "verdict", *names, "sum"], rows)


def _print_functions(scores: Scores) -> None:
    head = ["reward", "weight", "mean", "lowest", "highest", "does not apply", "unscorable"]
    rows = []
    for summary in summaries(scores):
        numbers = map(_number, (summary.mean, summary.lowest, summary.highest))
        rows.append(
            [summary.name, f"{summary.weight:g}", *numbers, str(summary.not_applicable), str(summary.unscorable)]
        )
    print_table(head, rows)


def _print_tricks(tricks: Sequence[Trick]) -> None:
    rows = [
        [
            trick.kind,
            "honest" if trick.is_honest else "",
            trick.verdict,
            _number(sum(trick.totals) / len(trick.totals)),
            f"{trick.seconds:.4f}",
        ]
        for trick in tricks
    ]
    print_table(["completion", "", "verdict", "sum, mean", "seconds each"], rows)


def _signal(sums: Sequence[Sequence[float]]) -> str:
    empty, groups = without_signal(sums)
    if not groups:
        return "questions without signal: unknown, as no question has two completions"
    return f"questions without signal (all completions worth the same): {empty} of {groups}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
