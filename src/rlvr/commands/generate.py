"""`rlvr generate`: a model's answers to questions from the command line, a file or the held-out problems."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TextIO

from rlvr.chat import opening_of, render_prompt, tags_of
from rlvr.commands.answers import CONTEXT, read_questions, records, show, to_problems
from rlvr.commands.which_model import TRAINED, Checkpoint, find
from rlvr.config import Config
from rlvr.model.limits import check_ids, most_tokens, read_config
from rlvr.plan.command import demand
from rlvr.problems import tables
from rlvr.stages.begin import stage
from rlvr.stages.opening import check_sampler, open_policy, open_sampler
from rlvr.stages.planning import plan_sampling
from rlvr.stages.quantization import kept_layers
from rlvr.stages.resolve import resolve
from rlvr.tasks.table import TableRow
from rlvr.types import Group, Message, Prompt, UserError

SECTIONS = ("compute", "model", "prepare", "rollout", "memory")
HELD_OUT = 3  # questions to ask when none is given


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of the command; None takes the value of params.yaml (section rollout, compute.seed)."""

    question: str | None
    file: Path | None
    column: str
    model: str | None
    completions: int
    sampler: Literal["native", "vllm"] | None
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    is_plain: bool
    out: Path | None


def main(request: Request) -> None:
    """Print the answers: for a person on a terminal, as JSON lines in a pipe or in the file `out`.

    Raises UserError for questions or a model that cannot be used.
    """
    if request.out is not None:
        _check_writable(request.out)
    printed = sys.stdout
    with stage("generate", SECTIONS) as params, TemporaryDirectory() as folder, ExitStack() as files:
        rows = _rows(request)
        with redirect_stdout(sys.stderr):  # messages of loading are not answers
            checkpoint = find(params, request.model, Path(folder))
            prompts = _prompts(checkpoint, rows, is_plain=request.is_plain)
            cfg = _sized(checkpoint, prompts, request)
            resolved = resolve(cfg)
            check_sampler(cfg, resolved, checkpoint.source)
            print(f"{checkpoint.name} answers {len(rows)} question(s)", flush=True)
            plan = plan_sampling(cfg, resolved, checkpoint.source, prompts, completions=request.completions)
            demand(plan)
            temperature = cfg.rollout.temperature if request.temperature is None else request.temperature
            sampler = open_sampler(
                cfg, resolved, checkpoint.source, checkpoint.tokenizer, plan, temperature=temperature
            )
            files.callback(sampler.close)
            policy = open_policy(
                resolved, checkpoint.source, checkpoint.tokenizer, sampler, start=checkpoint.start,
                kept=kept_layers(cfg) if checkpoint.start in TRAINED else (),
            )  # fmt: skip
            sampler.resume()
            sampler.sync(policy)
            seed = cfg.compute.seed if request.seed is None else request.seed
            groups = sampler.sample(prompts, request.completions, seed=(seed, -2))
            stream = files.enter_context(request.out.open("w", encoding="utf-8")) if request.out else printed
            write = _writer(cfg, stream)
            for number, group in enumerate(_in_order(groups, prompts)):
                write(rows[number], group)


def _in_order(groups: Iterable[Group], prompts: Sequence[Prompt]) -> Iterator[Group]:
    """The groups in the order of their prompts, each as soon as those before it have arrived."""
    waiting: dict[str, Group] = {}
    ids = deque(prompt.problem.id for prompt in prompts)
    for group in groups:
        waiting[group.prompt.problem.id] = group
        while ids and ids[0] in waiting:
            yield waiting.pop(ids.popleft())


def _check_writable(file: Path) -> None:
    """Raise UserError, before a model is loaded, when `file` cannot be written."""
    if file.is_dir():
        raise UserError(f"--out {file} is a folder: name a file in it, such as {file / 'answers.jsonl'}")
    if not file.parent.is_dir():
        raise UserError(f"--out {file}: the folder {file.parent} does not exist; make it first, or name another file")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"--out {file} cannot be written: name another file")


def _rows(request: Request) -> list[TableRow]:
    if request.question is not None and request.file is not None:
        raise UserError("give a question or --file, not both")
    if request.question is not None:
        return [{"question": request.question}]
    if request.file is not None:
        return read_questions(request.file, request.column)
    if not tables.FOLDER.is_dir():
        raise UserError('nothing to ask: give a question, as in rlvr generate "What is 12+34?", or --file')
    problems = [prompt.problem for prompt in tables.read_prompts("evaluation")[:HELD_OUT]]
    return [
        {"id": problem.id, "question": problem.question, "answer": problem.answer}
        | ({CONTEXT: list(problem.context)} if problem.context else {})
        for problem in problems
    ]


def _prompts(checkpoint: Checkpoint, rows: Sequence[TableRow], *, is_plain: bool) -> list[Prompt]:
    """The questions as in training; plain ones without system prompt, worked examples and opening tag."""
    template, tokenizer = checkpoint.cfg.model.template, checkpoint.tokenizer
    earlier: Sequence[Message] = () if is_plain or not checkpoint.cfg.prepare.few_shot else tables.read_earlier()
    prompts = []
    for problem in to_problems(rows):
        text = render_prompt(
            tokenizer,
            problem.question,
            system_prompt=None if is_plain else template.system_prompt,
            opening="" if is_plain else opening_of(template, tokenizer).added,
            earlier=earlier,
            context=problem.context,
        )
        prompts.append(Prompt(problem, tuple(tokenizer.encode(text, add_special_tokens=False))))
    return prompts


def _sized(checkpoint: Checkpoint, prompts: Sequence[Prompt], request: Request) -> Config:
    """The configuration with room for these prompts and completions. Raises UserError if the model has too little."""
    cfg = checkpoint.cfg
    longest = max(len(prompt.tokens) for prompt in prompts)
    tokens = cfg.rollout.max_completion_tokens if request.max_tokens is None else request.max_tokens
    config = read_config(checkpoint.source)
    check_ids(config, checkpoint.tokenizer, (token for prompt in prompts for token in prompt.tokens))
    limit, _ = most_tokens(config)
    if limit is not None and longest + tokens > limit:
        raise UserError(
            f"the longest question has {longest} tokens with its template, and --max-tokens is {tokens}, but "
            f"{checkpoint.name} reads at most {limit} in total: shorten the question or lower --max-tokens"
        )
    sampler = request.sampler or cfg.rollout.sampler
    rows = min(cfg.rollout.max_rows, len(prompts) * request.completions)
    changes = {"max_completion_tokens": tokens, "sampler": sampler, "max_rows": rows}
    rollout = cfg.rollout.model_copy(update=changes)
    sizes = cfg.prepare.model_copy(update={"max_prompt_tokens": longest})
    template = (
        cfg.model.template.model_copy(update={"open_in_prompt": False}) if request.is_plain else cfg.model.template
    )
    model = cfg.model.model_copy(update={"template": template})
    return cfg.model_copy(update={"rollout": rollout, "prepare": sizes, "model": model})


def _writer(cfg: Config, stream: TextIO) -> Callable[[TableRow, Group], None]:
    tags = tags_of(cfg.model.template)

    def write_lines(row: TableRow, group: Group) -> None:
        for record in records(row, group, tags):
            print(json.dumps(record, ensure_ascii=False, default=str), file=stream, flush=True)

    def write_page(row: TableRow, group: Group) -> None:
        with redirect_stdout(stream):
            show(row, group, tags)

    return write_page if stream.isatty() else write_lines
