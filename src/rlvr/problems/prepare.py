"""From problems to tables: draw, check, render with the chat template, tokenize, write, and describe in a card."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.chat import (
    Opening,
    messages,
    opening_of,
    other_opening,
    read,
    render_prompt,
    render_target,
    tags_of,
    turns,
)
from rlvr.model import scratch, source
from rlvr.model.chat_template import fix_template
from rlvr.model.limits import check_config, check_ids, check_length
from rlvr.model.source import Source, open_source
from rlvr.model.tokenizer import MARK, check_round_trip, describe, target_end
from rlvr.problems.golds import bad_golds, refusal, warn_of_formats
from rlvr.problems.selection import Split, TokenLimits, select, set_aside, split_sizes
from rlvr.problems.tables import write_table
from rlvr.runtime.messages import note, warn
from rlvr.tasks import TASKS, Pools
from rlvr.types import Message, Problem, UserError

if TYPE_CHECKING:
    from rlvr.config import Config


def prepare(cfg: Config, folder: Path, base: Path) -> dict[str, Any]:
    """Write the tables of every split to `folder` and a scratch model to `base`; return the card.

    Raises UserError for data that cannot be read, for golds that the verifier cannot use (prepare.bad_golds), and if
    too few problems are left.
    """
    pools = TASKS[cfg.prepare.task](cfg.prepare, cfg.compute.seed)
    tokenizer = open_tokenizer(cfg, pools.problems(), base)
    config = check_config(Source.read(base))
    check_round_trip(tokenizer, MARK.join(["", *tags_of(cfg.model.template).marks(), ""]))
    examples, splits, bad = deal(cfg, tokenizer, pools)
    columns = [columns for split in splits.values() for _, columns in split.rows]
    check_ids(config, tokenizer, (i for c in columns for i in (*c["prompt_tokens"], *c["target_tokens"])))
    longest = max((len(c["prompt_tokens"]) for c in columns), default=0)
    check_length(config, prompt_tokens=longest, completion_tokens=cfg.rollout.max_completion_tokens)
    card: dict[str, Any] = {
        "origin": pools.origin,
        "bad_golds": bad,
        "few_shot": [p.id for p in examples],
        "splits": {},
    }
    for name, split in splits.items():
        path = folder / f"{name}.parquet"
        write_table(path, split.rows)
        card["splits"][name] = _card_of(split) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        if name == "sft":
            check_round_trip(tokenizer, split.rows[0][1]["target"])
        if split.left_out or split.truncated:
            print(f"{name}: {split.truncated} questions cut; left out: {split.reasons() or 'none'}")
    card["vocabulary"] = len(tokenizer)
    card["tokenizer"] = describe(tokenizer, tags_of(cfg.model.template))
    card["source"] = json.loads((base / source.FILE).read_text(encoding="utf-8"))
    if (revision := card["source"]["revision"]) not in (None, cfg.model.revision):
        warn(f"model.revision is {cfg.model.revision}, so the newest commit {revision} was used; write it there")
    if (tag := other_opening(cfg.model.template, tokenizer)) is not None:
        warn(f"the model's chat template opens {tag} by itself: set model.template.tags to tags that begin with it")
    card["chat_template"] = tokenizer.chat_template
    return card


def deal(cfg: Config, tokenizer: Any, pools: Pools) -> tuple[list[Problem], dict[str, Split], dict[str, str]]:
    """The examples of few_shot, the splits with their prompts, and why golds were dropped, by the id of the problem.

    Raises UserError if too few problems are left, and for golds that the verifier cannot use (prepare.bad_golds).
    """
    limits = TokenLimits(
        prompt_tokens=cfg.prepare.max_prompt_tokens,
        completion_tokens=cfg.rollout.max_completion_tokens,
        truncate=cfg.prepare.long_prompts == "truncate",
    )
    opening, bad = opening_of(cfg.model.template, tokenizer), dict[str, str]()
    while True:  # a row that is dropped is replaced by the next one, whose gold is judged in turn
        examples, others = set_aside(pools, cfg.prepare.few_shot)
        encode = partial(_encode, cfg, tokenizer, opening, target_end(tokenizer), _earlier(cfg, tokenizer, examples))
        splits = select(others, split_sizes(cfg.prepare), encode, limits, examples)
        new = _bad_golds(cfg, pools, [*examples, *(problem for s in splits.values() for problem, _ in s.rows)])
        if not new:
            break
        bad, pools = bad | new, pools.without(new)
    warn_of_formats(cfg.verifiers.answer, pools.problems())
    if bad:
        note(f"{len(bad)} rows left out, whose golds {cfg.verifiers.answer} cannot use (card.json: bad_golds)")
    return examples, splits, bad


def _bad_golds(cfg: Config, pools: Pools, problems: list[Problem]) -> dict[str, str]:
    """Golds that the run's verifier cannot use, by problem. Raises UserError unless they are to be dropped."""
    name = cfg.verifiers.answer
    bad = bad_golds(cfg.verifiers, name, problems)
    if bad and cfg.prepare.bad_golds == "refuse":
        places = {pools.place(identity): reason for identity, reason in bad.items()}
        remedy = "; prepare.bad_golds: drop leaves them out"
        raise refusal(f"verifiers.answer {name}", places, count=len(problems), remedy=remedy)
    return bad


def _card_of(split: Split) -> dict[str, Any]:
    levels = Counter(problem.level for problem, _ in split.rows)
    columns = [columns for _, columns in split.rows]
    return {
        "count": len(columns),
        "left_out": dict(split.left_out),
        "truncated": split.truncated,
        "levels": {str(level): count for level, count in levels.items()},
        "prompt_tokens": _lengths([len(c["prompt_tokens"]) for c in columns]),
        "target_tokens": _lengths([len(c["target_tokens"]) for c in columns]),
        "examples": [{key: c[key] for key in ("prompt", "target")} for c in columns[:3]],
    }


def open_tokenizer(cfg: Config, problems: list[Problem], base: Path) -> Any:
    """The model's tokenizer, written to `base`: of the scratch model with the model, made for `problems`.

    Raises UserError for a model that cannot be used, and for a variable that its chat template does not read.
    """
    if cfg.model.source == "scratch":
        tokenizer = scratch_tokenizer(cfg, problems)
        shape = scratch.ScratchShape(**cfg.model.scratch.model_dump())
        longest = cfg.prepare.max_prompt_tokens + cfg.rollout.max_completion_tokens
        scratch.save_model(shape, tokenizer, base, max_tokens=longest, seed=cfg.compute.seed)
        Source(str(base), None, None).write(base)
        return tokenizer
    tokenizer = open_source(cfg.model.source, cfg.model.revision, base, dtype=cfg.compute.dtype)[1]
    with_template(cfg, tokenizer).save_pretrained(base)
    return tokenizer


def scratch_tokenizer(cfg: Config, problems: list[Problem]) -> Any:
    """The tokenizer of the scratch model, for the texts of `problems`."""
    tags = tags_of(cfg.model.template)
    texts = [text for p in problems for text in (p.question, render_target(p, tags), *_contents(p.context))]
    return scratch.make_tokenizer([*texts, cfg.model.template.system_prompt or ""], tags)


def with_template(cfg: Config, tokenizer: Any) -> Any:
    """The tokenizer with the project's values in its chat template. Raises UserError for unread ones."""
    if unread := fix_template(tokenizer, cfg.model):
        raise UserError(
            f"model.chat_template_kwargs: the model's chat template does not read {', '.join(unread)}; leave it out"
        )
    return tokenizer


def _contents(chat: Iterable[Message]) -> list[str]:
    return [message["content"] for message in chat]


def _earlier(cfg: Config, tokenizer: Any, examples: list[Problem]) -> list[Message]:
    """The worked examples as turns of the chat. Raises UserError if the chat template changes them."""
    template = cfg.model.template
    earlier = turns(examples, tags_of(template))
    prompt = render_prompt(tokenizer, "", system_prompt=template.system_prompt, opening="", earlier=earlier)
    if not all(message["content"].strip() in prompt for message in earlier):
        raise UserError(
            f"prepare.few_shot {len(examples)}: the model's chat template rewrites earlier answers (some drop "
            "<think>...</think>). Use other model.template.tags, such as working_out, or few_shot 0"
        )
    return earlier


def _encode(
    cfg: Config, tokenizer: Any, opening: Opening, end: int, earlier: list[Message], problem: Problem
) -> dict[str, Any]:
    """Prompt and target as text and tokens. The target's tokens end with `end`.

    The target is empty without a worked solution, since it would not be well-formed, and where its answer cannot be
    read back, since a worked solution with tags in it would teach a wrong format.
    """
    template = cfg.model.template
    tags = tags_of(template)
    prompt = render_prompt(
        tokenizer,
        problem.question,
        system_prompt=template.system_prompt,
        opening=opening.added,
        earlier=earlier,
        context=problem.context,
    )
    target = render_target(problem, tags) if problem.working else ""
    reading = read(target, tags)
    is_plain = tags.is_box or reading.counts == (1, 1, 1, 1)
    if not is_plain or (reading.answer or "").strip() != (problem.solution or problem.answer).strip():
        target = ""
    if opening.given:
        target = target[len(tags.reasoning_start) :]
    return {
        "prompt": prompt,
        "prompt_tokens": tokenizer.encode(prompt, add_special_tokens=False),
        "target": target,
        "target_tokens": [*tokenizer.encode(target, add_special_tokens=False), end] if target else [],
        "messages": messages(problem.question, template.system_prompt, earlier, problem.context),
    }


def _lengths(counts: list[int]) -> dict[str, float]:
    return {"min": min(counts), "mean": sum(counts) / len(counts), "max": max(counts)}
